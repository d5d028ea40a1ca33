"""Adapter bottlenecks: the fused form against float64, values and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.kernels import dilated, spatial3d
from segkit.kernels.dilated import Branch

Check = Callable[..., None]


def draw(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * 0.5 for shape in shapes]


def dilated_inputs(
    n: int, h: int, w: int, dim: int, hidden: int, branches: int = 2
) -> list[Tensor]:
    conv = [(hidden, 1, 3, 3), (hidden,)] * branches
    return draw((n, h, w, dim), (hidden, dim), (hidden,), *conv, (dim, hidden), (dim,))


def run_dilated(rates: tuple[int, ...], function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    x, wd, bd, *convs, wu, bu = inputs
    branches = [Branch(convs[2 * i], convs[2 * i + 1], r) for i, r in enumerate(rates)]
    return function(x, (wd, bd), branches, (wu, bu))


def fused_dilated(*args: object) -> Tensor:
    return dilated.dilated_bottleneck(*args, impl="triton")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "rates"),
    [
        ((1, 5, 7, 6, 3), (1, 3)),
        ((2, 9, 4, 20, 10), (1, 3)),
        ((1, 1, 1, 2, 1), (2,)),
        ((1, 6, 6, 33, 17), (1, 2, 5)),
    ],
)
def test_dilated_agrees_with_float64(
    shape: tuple[int, ...], rates: tuple[int, ...], device: str, agrees: Check
) -> None:
    inputs = [x.to(device) for x in dilated_inputs(*shape, branches=len(rates))]
    agrees(
        lambda *args: run_dilated(rates, fused_dilated, *args),
        lambda *args: run_dilated(rates, dilated.reference, *args),
        inputs,
        rtol=2e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dilated_in_half_precision(dtype: torch.dtype, device: str, agrees: Check) -> None:
    inputs = [x.to(device, dtype) for x in dilated_inputs(1, 6, 5, 8, 4)]
    agrees(
        lambda *args: run_dilated((1, 3), fused_dilated, *args),
        lambda *args: run_dilated((1, 3), dilated.reference, *args),
        inputs,
        rtol=3e-2 if dtype == torch.bfloat16 else 4e-3,
    )


def test_dilated_takes_tokens_that_are_not_contiguous(device: str) -> None:
    inputs = [x.to(device) for x in dilated_inputs(2, 5, 7, 6, 3)]
    turned = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    torch.testing.assert_close(
        run_dilated((1, 3), fused_dilated, turned, *inputs[1:]),
        run_dilated((1, 3), dilated.reference, *inputs),
    )


def test_autocast_has_the_types_and_the_accuracy_of_the_reference(device: str) -> None:
    inputs = [x.to(device).requires_grad_() for x in dilated_inputs(1, 6, 5, 24, 12)]
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    with torch.autocast(device, torch.bfloat16):
        got = run_dilated((1, 3), fused_dilated, *inputs)
        usual = run_dilated((1, 3), dilated.reference, *inputs)
    want = run_dilated((1, 3), dilated.reference, *doubles)
    assert got.dtype == usual.dtype == torch.float32
    seed = torch.linspace(-1, 1, got.numel(), device=device).view(got.shape)
    mine, theirs = ((y, *torch.autograd.grad(y, inputs, seed)) for y in (got, usual))
    true = (want, *torch.autograd.grad(want, doubles, seed.double()))
    # the interpreter cuts to bf16 instead of rounding, four times on the way
    steps = 4 if device == "cpu" else 1
    for own, other, best in zip(mine, theirs, true, strict=True):
        assert own.dtype == torch.float32
        off, allowed = (
            float((x.detach() - best.detach()).abs().max() / best.detach().abs().max())
            for x in (own, other)
        )
        assert off <= 2 * allowed + steps * torch.finfo(torch.bfloat16).eps


def test_the_backward_pass_keeps_the_input_alone(device: str) -> None:
    x, *weights = (t.to(device).requires_grad_() for t in dilated_inputs(1, 8, 8, 32, 16))
    kept: set[int] = set()

    def pack(t: Tensor) -> Tensor:
        if t.shape[:1] == (1,) and t.numel() >= x.numel() // 2:
            kept.add(t.untyped_storage().data_ptr())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run_dilated((1, 3), fused_dilated, x, *weights)
    assert kept == {x.untyped_storage().data_ptr()}


@pytest.mark.parametrize("ends_with_relu", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 4, 5, 6, 3), (2, 1, 5, 3, 18, 9)])
def test_spatial_agrees_with_float64(
    shape: tuple[int, ...], ends_with_relu: bool, device: str, agrees: Check
) -> None:
    n, d, h, w, dim, hidden = shape
    inner = [(hidden, dim), (hidden,), (hidden, 1, 3, 3, 3), (hidden,), (dim, hidden), (dim,)]
    inputs = draw((n, d, h, w, dim), *inner)

    def run(function: Callable[..., Tensor], *args: Tensor, **options: object) -> Tensor:
        x, wd, bd, wc, bc, wu, bu = args
        return function(x, (wd, bd), (wc, bc), (wu, bu), ends_with_relu=ends_with_relu, **options)

    agrees(
        lambda *args: run(spatial3d.spatial_bottleneck, *args, impl="triton"),
        lambda *args: run(spatial3d.reference, *args),
        [x.to(device) for x in inputs],
        rtol=2e-5,
    )


@pytest.mark.slow
def test_registration_is_complete(device: str) -> None:
    from segkit.kernels.triton.bottleneck import bottleneck

    x, wd, bd, w1, b1, w3, b3, wu, bu = (x.to(device) for x in dilated_inputs(1, 3, 4, 4, 2))
    weight = torch.stack([w1.flatten(1).T, w3.flatten(1).T])
    floats = (x[:, None], wd, bd, weight, torch.stack([b1, b3]))
    args = (
        *(t.detach().requires_grad_() for t in floats),
        [1, 3],
        wu.requires_grad_(),
        bu.requires_grad_(),
    )
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(bottleneck, (*args, "gelu", "gelu"), test_utils=tests)


def test_whole_graph_compiles(device: str) -> None:
    inputs = [x.to(device) for x in dilated_inputs(1, 4, 4, 4, 2)]
    compiled = torch.compile(
        lambda *args: run_dilated((1, 3), fused_dilated, *args), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(
        compiled(*inputs), run_dilated((1, 3), dilated.reference, *inputs), rtol=1e-4, atol=1e-5
    )
