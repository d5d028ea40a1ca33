"""Prompts inside a bottleneck: the fused form against float64, values and every gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.kernels.prompted import prompted_bottleneck, reference

Check = Callable[..., None]


def inputs_of(n: int, tokens: int, dim: int, prompts: int, inner: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = [
        (n, tokens, dim), (inner, dim), (inner,), (prompts, inner), (dim, inner), (dim,), (1,),
    ]  # fmt: skip
    return [torch.randn(shape, generator=generator) * 0.7 for shape in shapes]


def run(function: Callable[..., Tensor], *inputs: Tensor, **options: object) -> Tensor:
    x, wd, bd, prompts, wu, bu, gate = inputs
    return function(x, (wd, bd), prompts, (wu, bu), gate, **options)


def fused(*inputs: Tensor) -> Tensor:
    return run(prompted_bottleneck, *inputs, impl="triton")


def exact(*inputs: Tensor) -> Tensor:
    return run(reference, *inputs)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 35, 12, 3, 5),
        (1, 1, 2, 1, 1),
        (1, 64, 16, 10, 20),
        (3, 100, 33, 17, 9),
        (1, 70, 70, 4, 4),
    ],
)
def test_agrees_with_float64(shape: tuple[int, ...], device: str, agrees: Check) -> None:
    agrees(fused, exact, [x.to(device) for x in inputs_of(*shape)], rtol=2e-5)


def test_many_tiles_are_combined(device: str, agrees: Check) -> None:
    inputs = inputs_of(1, 64 * 17 + 1, 4, 2, 3)
    inputs[3] *= 20  # prompts that look at single tokens
    agrees(fused, exact, [x.to(device) for x in inputs], rtol=5e-5)


def test_tokens_that_are_not_contiguous(device: str) -> None:
    inputs = [x.to(device) for x in inputs_of(2, 35, 12, 3, 5)]
    turned = inputs[0].transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned.is_contiguous()
    torch.testing.assert_close(fused(turned, *inputs[1:]), exact(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_autocast", [False, True])
def test_half_precision_is_as_accurate_as_that_of_torch(
    dtype: torch.dtype, is_autocast: bool, device: str
) -> None:
    kind = torch.float32 if is_autocast else dtype
    inputs = [x.to(device, kind).requires_grad_() for x in inputs_of(2, 35, 12, 3, 5)]
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    with torch.autocast(device, dtype, enabled=is_autocast):
        got, usual = fused(*inputs), exact(*inputs)
    want = exact(*doubles)
    # along what is added: else the gradient of the gate is a small difference of large sums
    above = (want - doubles[0]).detach()
    mine, theirs, true = (
        (y, *torch.autograd.grad(y, given, above.to(y)))
        for y, given in ((got, inputs), (usual, inputs), (want, doubles))
    )
    # the interpreter cuts to bf16 instead of rounding, four times on the way
    steps = 4 if device == "cpu" and dtype == torch.bfloat16 else 1
    for n, (own, other, best) in enumerate(zip(mine, theirs, true, strict=True)):
        assert own.dtype == other.dtype == kind
        off, allowed = (
            float((x.detach() - best.detach()).abs().max() / best.detach().abs().max())
            for x in (own, other)
        )
        bound = 2 * allowed + steps * torch.finfo(dtype).eps
        assert off <= bound, f"number {n}: {off:.1e}, torch {allowed:.1e}"


@pytest.mark.slow
def test_registration_is_complete(device: str) -> None:
    from segkit.kernels.triton.prompted import prompted

    args = [x.to(device).requires_grad_() for x in inputs_of(1, 20, 6, 2, 3)]
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(prompted, tuple(args), test_utils=tests)


def test_whole_graph_compiles(device: str) -> None:
    inputs = [x.to(device) for x in inputs_of(1, 20, 6, 2, 3)]
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), exact(*inputs), rtol=1e-4, atol=1e-5)


def test_what_is_too_wide_says_so() -> None:
    with pytest.raises(ValueError, match="prompts and inner channels must be <= 64, got 65"):
        fused(*inputs_of(1, 4, 4, 2, 65))
    inputs = inputs_of(1, 4, 4, 2, 65)
    torch.testing.assert_close(run(prompted_bottleneck, *inputs), exact(*inputs))
