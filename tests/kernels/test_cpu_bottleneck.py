"""The bottlenecks in training on a CPU against their definitions: values, gradients, memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.kernels import dilated, spatial3d
from segkit.kernels.dilated import Branch

DIM, HIDDEN = 6, 4


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [one.requires_grad_() for one in made]


def gradients(call: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    made = call(*leaves)
    seed = torch.linspace(-1, 1, made.numel(), dtype=made.dtype).view(made.shape)
    return [made.detach(), *torch.autograd.grad((made * seed).sum(), leaves)]


def kept_bytes(call: Callable[..., Tensor], leaves: list[Tensor]) -> int:
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        made = call(*leaves)
    del made
    return sum(seen.values()) - sum(
        seen.get(leaf.untyped_storage().data_ptr(), 0) for leaf in leaves
    )


def bottleneck(rates: tuple[int, ...], impl: str) -> Callable[..., Tensor]:
    def call(x: Tensor, wd: Tensor, bd: Tensor, wu: Tensor, bu: Tensor, *convs: Tensor) -> Tensor:
        pairs = zip(convs[::2], convs[1::2], rates, strict=True)
        branches = [Branch(w, b, rate) for w, b, rate in pairs]
        return dilated.dilated_bottleneck(x, (wd, bd), branches, (wu, bu), impl=impl)  # type: ignore[arg-type]

    return call


@pytest.mark.parametrize("size", [(2, 9, 7), (1, 3, 8), (1, 1, 1), (1, 12, 12)])
@pytest.mark.parametrize("rates", [(1,), (1, 3), (2, 5)])
def test_dilated_equals_its_definition(size: tuple[int, ...], rates: tuple[int, ...]) -> None:
    convs = [shape for _ in rates for shape in ((HIDDEN, 1, 3, 3), (HIDDEN,))]
    leaves = drawn((*size, DIM), (HIDDEN, DIM), (HIDDEN,), (DIM, HIDDEN), (DIM,), *convs)
    found, expected = (gradients(bottleneck(rates, way), leaves) for way in ("auto", "reference"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ends_with_relu", [True, False])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 1, 6, 2)])
def test_spatial_equals_its_definition(size: tuple[int, ...], ends_with_relu: bool) -> None:
    kernel = (HIDDEN, 1, 3, 3, 3)
    shapes = ((HIDDEN, DIM), (HIDDEN,), kernel, (HIDDEN,), (DIM, HIDDEN), (DIM,))
    leaves = drawn((*size, DIM), *shapes)

    def call(impl: str, x: Tensor, *p: Tensor) -> Tensor:
        return spatial3d.spatial_bottleneck(
            x, (p[0], p[1]), (p[2], p[3]), (p[4], p[5]),
            ends_with_relu=ends_with_relu, impl=impl,  # type: ignore[arg-type]
        )  # fmt: skip

    found, expected = (
        gradients(lambda *given, way=way: call(way, *given), leaves)
        for way in ("auto", "reference")
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_half_as_much_is_kept_for_the_backward_pass() -> None:
    convs = [(HIDDEN, 1, 3, 3), (HIDDEN,)] * 2
    leaves = drawn((2, 16, 16, DIM), (HIDDEN, DIM), (HIDDEN,), (DIM, HIDDEN), (DIM,), *convs)
    ours, plain = (kept_bytes(bottleneck((1, 3), way), leaves) for way in ("auto", "reference"))
    assert ours <= 0.5 * plain


def test_what_is_not_trained_gets_no_gradient() -> None:
    convs = [(HIDDEN, 1, 3, 3), (HIDDEN,)] * 2
    leaves = drawn((1, 5, 5, DIM), (HIDDEN, DIM), (HIDDEN,), (DIM, HIDDEN), (DIM,), *convs)
    expected = gradients(bottleneck((1, 3), "reference"), leaves)
    for index, leaf in enumerate(leaves):
        alone = [one if one is leaf else one.detach() for one in leaves]
        made = bottleneck((1, 3), "auto")(*alone)
        seed = torch.linspace(-1, 1, made.numel(), dtype=made.dtype).view(made.shape)
        torch.testing.assert_close(
            torch.autograd.grad((made * seed).sum(), leaf)[0], expected[1 + index]
        )


def test_gradients_can_be_asked_for_twice() -> None:
    leaves = drawn(
        (1, 4, 4, DIM),
        (HIDDEN, DIM),
        (HIDDEN,),
        (DIM, HIDDEN),
        (DIM,),
        (HIDDEN, 1, 3, 3),
        (HIDDEN,),
    )
    total = bottleneck((2,), "auto")(*leaves).square().sum()
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(total, leaves), rtol=0, atol=0)


def test_autocast_keeps_its_types() -> None:
    convs = [(HIDDEN, 1, 3, 3), (HIDDEN,)]
    leaves = drawn((1, 4, 4, DIM), (HIDDEN, DIM), (HIDDEN,), (DIM, HIDDEN), (DIM,), *convs)
    leaves = [one.detach().float().requires_grad_() for one in leaves]
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (
            gradients(bottleneck((1,), way), leaves) for way in ("auto", "reference")
        )
    torch.testing.assert_close(found, expected)
