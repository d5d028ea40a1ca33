"""First layer of a field: the fused form against float64, values and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.kernels.field import field_layer, field_layers, folded, reference

Check = Callable[..., None]


def inputs_of(
    n: int, size: tuple[int, ...], channels: int, codes: int, outs: int, points: int
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(3)
    coarse = tuple(max(1, side // 2) for side in size)
    shapes = [
        (n, channels, *size), (1, 6, *coarse), (points, codes),
        (outs, channels + 6 + codes), (outs,),
    ]  # fmt: skip
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    # some points lie outside, where maps go on as at their edge
    return drawn, 2.3 * torch.rand(points, len(size), generator=generator) - 1.15


@pytest.mark.parametrize(
    ("n", "size", "channels", "codes", "outs", "points"),
    [
        (2, (5, 4), 3, 7, 10, 21),
        (1, (1, 1), 1, 1, 1, 1),
        (1, (9, 6), 33, 3, 70, 70),
        (2, (3, 4, 5), 4, 5, 6, 19),
    ],
)
def test_agrees_with_float64(
    n: int,
    size: tuple[int, ...],
    channels: int,
    codes: int,
    outs: int,
    points: int,
    device: str,
    agrees: Check,
) -> None:
    inputs, places = inputs_of(n, size, channels, codes, outs, points)
    places = places.to(device)
    agrees(
        lambda c, p, d, *layer: field_layer(c, p, places, d, layer, impl="triton"),
        lambda c, p, d, *layer: reference(c, p, places, d, layer),
        [x.to(device) for x in inputs],
        rtol=2e-5,
    )


def test_rows_with_owners_and_without_positions(device: str, agrees: Check) -> None:
    inputs, places = inputs_of(3, (4, 5), 3, 7, 9, 25)
    cells, _, dense, weight, bias = (x.to(device) for x in inputs)
    owner = torch.randint(3, (25,), generator=torch.Generator().manual_seed(0)).to(device)
    agrees(
        lambda c, d, *layer: field_layer(
            c, None, places.to(c.device), d, layer, owner, impl="triton"
        ),
        lambda c, d, *layer: reference(c, None, places.to(c.device), d, layer, owner),
        [cells, dense, weight[:, 6:].contiguous(), bias],
        rtol=2e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, device: str, agrees: Check) -> None:
    inputs, places = inputs_of(1, (5, 4), 3, 7, 10, 21)
    agrees(
        lambda c, p, d, *layer: field_layer(c, p, places.to(c.device), d, layer, impl="triton"),
        lambda c, p, d, *layer: reference(c, p, places.to(c.device), d, layer),
        [x.to(device, dtype) for x in inputs],
        rtol=3e-2 if dtype == torch.bfloat16 else 4e-3,
    )


def test_maps_that_are_not_contiguous(device: str) -> None:
    (cells, positions, dense, *layer), places = inputs_of(2, (5, 4), 3, 7, 10, 21)
    turned = cells.transpose(2, 3).contiguous().transpose(2, 3)
    assert not turned.is_contiguous()
    given = (positions.to(device), places.to(device), dense.to(device))
    pair = tuple(x.to(device) for x in layer)
    torch.testing.assert_close(
        field_layer(turned.to(device), *given, pair, impl="triton"),
        reference(cells.to(device), *given, pair),
        rtol=1e-4,
        atol=1e-5,
    )


def test_layers_without_gradient(device: str) -> None:
    (cells, positions, dense, *first), places = inputs_of(2, (5, 4), 3, 7, 10, 21)
    generator = torch.Generator().manual_seed(1)
    second = [torch.randn(6, 10, generator=generator), torch.randn(6, generator=generator)]
    given = [x.to(device) for x in (cells, positions, places, dense)]
    layers = tuple(tuple(x.to(device) for x in pair) for pair in (first, second))
    with pytest.raises(ValueError, match="field_layers has no gradient"):
        field_layers(*given, layers)
    with torch.no_grad():
        got = field_layers(*given, layers, impl="triton")
        torch.testing.assert_close(got, field_layers(*given, layers), rtol=1e-4, atol=1e-5)


def test_a_folded_norm_is_the_same_layer() -> None:
    linear, norm = torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4).eval()
    for values in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(values)
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(7, 5)
    torch.testing.assert_close(
        torch.nn.functional.linear(x, *folded(linear, norm)), norm(linear(x))
    )


@pytest.mark.slow
def test_registration_is_complete(device: str) -> None:
    from segkit.kernels.triton import field

    (cells, positions, dense, *layer), places = inputs_of(1, (3, 4), 3, 2, 5, 8)
    last = [x.movedim(1, -1).to(device).requires_grad_() for x in (cells, positions)]
    rest = [x.to(device).requires_grad_() for x in (dense, *layer)]
    places = places.to(device)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    args = (*last, places, rest[0], None, *rest[1:], "none")
    torch.library.opcheck(field.field_layer, args, test_utils=tests)
    maps = last[0].detach()
    torch.library.opcheck(field.field_gather, (maps, places, None, torch.float32), test_utils=tests)
    rows = torch.randn(8, 3, device=device)
    torch.library.opcheck(field.field_scatter, (rows, maps, places, None), test_utils=tests)
    given = [x.detach() for x in (dense[:, :2], layer[0][:, :2], layer[1])]
    given = [x.to(device) for x in given]
    torch.library.opcheck(field.dense_layer, (*given, "relu"), test_utils=tests)


def test_whole_graph_compiles(device: str) -> None:
    (cells, positions, dense, *layer), places = inputs_of(1, (3, 4), 3, 2, 5, 8)
    given = [x.to(device) for x in (cells, positions, places, dense)]
    pair = tuple(x.to(device) for x in layer)
    compiled = torch.compile(
        lambda *args: field_layer(*args, pair, impl="triton"), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(*given), reference(*given, pair), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_fused_says_why(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (cells, positions, dense, *layer), places = inputs_of(1, (3, 4), 3, 2, 5, 8)
    with pytest.raises(ValueError, match="points must not require gradients"):
        field_layer(cells, positions, places.requires_grad_(), dense, tuple(layer), impl="triton")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    args = (cells.requires_grad_(), positions, places.detach(), dense, tuple(layer))
    with pytest.raises(ValueError, match="added atomically"):
        field_layer(*args, impl="triton")
