"""The depthwise bottlenecks on a CPU in training, with a backward pass written out.

Kept for the backward pass is what is dear to compute again: the output of the first projection, and
of the second one what its activation needs. The depthwise convolutions between them are computed
again. What lies between a convolution and the output is made for a thousand tokens at a time, so
that little memory is asked of the system for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.kernels.cpu_depthwise import convolved, for_input, for_weight

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float

Linear = tuple[Tensor, Tensor]
"""Weight and bias."""

Inner = Literal["gelu", "relu"]
Outer = Literal["gelu", "relu", "none"]
Gradient = Tensor | None

_STRETCH = 1024
"""Tokens that are worked on together."""

_aten = torch.ops.aten
_FORWARD: dict[str, Callable[..., Tensor]] = {
    "gelu": _aten.gelu.out,
    "relu": lambda x, out: torch.clamp(x, min=0, out=out),
}


def is_for(*tensors: Tensor) -> bool:
    """Whether these tensors lie on a CPU, have one type, and a backward pass will follow."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
    kind = tensors[0].dtype
    return learns and all(one.device.type == "cpu" and one.dtype == kind for one in tensors)


def bottleneck(
    tokens: Float[Tensor, "n *size dim"],
    down: Linear,
    branches: Sequence[tuple[Tensor, Tensor, int]],
    up: Linear,
    inner: Inner,
    outer: Outer,
) -> Float[Tensor, "n *size dim"]:
    """Compute tokens + outer(up(sum over branches of inner(conv(inner(down(tokens)))))).

    Branches are weight, bias and rate of a depthwise convolution over `size`, two or three axes;
    rates other than 1 have two.
    """
    rates = tuple(rate for _, _, rate in branches)
    convs = [part for weight, bias, _ in branches for part in (weight, bias)]
    made: Tensor = _Bottleneck.apply(tokens, *down, *up, inner, outer, rates, *convs)
    return made


class _Bottleneck(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        down: Tensor,
        down_bias: Tensor,
        up: Tensor,
        up_bias: Tensor,
        inner: Inner,
        outer: Outer,
        rates: tuple[int, ...],
        *convs: Tensor,
    ) -> Tensor:
        hidden = F.linear(tokens, down, down_bias)
        # of relu(hidden) the gradient can be told as well as of hidden
        x = hidden.relu_() if inner == "relu" else F.gelu(hidden)
        made = _branches(x, convs, rates)
        kept, out = _raised(tokens, made, up, up_bias, inner, outer)
        ctx.save_for_backward(tokens, hidden, kept, down, up, *convs)
        ctx.how = inner, outer, rates
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, seed: Tensor) -> tuple[Gradient, ...]:
        tokens, hidden, kept, down, up, *convs = ctx.saved_tensors
        (inner, outer, rates), needs = ctx.how, ctx.needs_input_grad
        x = hidden if inner == "relu" else F.gelu(hidden)
        made = _branches(x, convs, rates)
        seed = seed.contiguous()
        for_up = _lowered(seed, made, kept, up, inner, outer)
        of_x, for_convs = None, list[Gradient]()
        for index, (one, rate) in enumerate(zip(made, rates, strict=True)):
            weight = convs[2 * index]
            has_weight, has_bias = needs[8 + 2 * index : 10 + 2 * index]
            for_convs.append(for_weight(one, x, weight, rate) if has_weight else None)
            for_convs.append(one.flatten(0, -2).sum(0) if has_bias else None)
            part = for_input(one, weight, rate)
            of_x = part if of_x is None else of_x.add_(part)
        assert of_x is not None
        _undo(inner, of_x, hidden, out=of_x)
        rows = of_x.flatten(0, -2)
        for_down = rows.T @ tokens.flatten(0, -2) if needs[1] else None
        for_bias = rows.sum(0) if needs[2] else None
        for_tokens = None
        if needs[0]:
            for_tokens = torch.addmm(seed.flatten(0, -2), rows, down).view(seed.shape)
        return for_tokens, for_down, for_bias, *for_up, None, None, None, *for_convs


def _branches(x: Tensor, convs: Sequence[Tensor], rates: Sequence[int]) -> list[Tensor]:
    """Convolutions at all rates."""
    pairs = zip(convs[::2], convs[1::2], rates, strict=True)
    return [convolved(x, weight, bias, rate).contiguous() for weight, bias, rate in pairs]


def _raised(
    tokens: Tensor, made: list[Tensor], up: Tensor, up_bias: Tensor, inner: Inner, outer: Outer
) -> tuple[Tensor | None, Tensor]:
    """What the outer activation needs for its gradient, and the output.

    Overwrites the convolutions `made` of.
    """
    out = torch.empty(tokens.shape, dtype=tokens.dtype)
    kept = None
    if outer != "none":
        kept = torch.empty(tokens.shape, dtype=torch.bool if outer == "relu" else tokens.dtype)
    for before, after, saved, *parts in _stretches(tokens, out, kept, *made):
        mixed = _mixed(inner, parts, parts)
        if outer == "gelu":
            torch.addmm(up_bias, mixed, up.T, out=saved)
            _aten.gelu.out(saved, out=after)
        else:
            torch.addmm(up_bias, mixed, up.T, out=after)
            if outer == "relu":
                torch.gt(after, 0, out=saved)
                after.relu_()
        after += before
    return kept, out


def _lowered(
    seed: Tensor, made: list[Tensor], kept: Tensor | None, up: Tensor, inner: Inner, outer: Outer
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias of the second projection; those of `made` take their place."""
    for_up, for_bias = torch.zeros_like(up), up.new_zeros(len(up))
    spare = [torch.empty(_STRETCH, one.shape[-1], dtype=one.dtype) for one in made]
    for of_out, saved, *parts in _stretches(seed, kept, *made):
        if outer == "none":
            of_raised = of_out
        elif outer == "relu":
            of_raised = of_out * saved.view(torch.uint8)  # twice as fast as of a bool
        else:
            of_raised = _aten.gelu_backward(of_out, saved)
        mixed = _mixed(inner, parts, [one[: len(of_out)] for one in spare])
        for_up.addmm_(of_raised.T, mixed)
        for_bias += of_raised.sum(0)
        of_mixed = torch.mm(of_raised, up, out=mixed)
        for part in parts:
            _undo(inner, of_mixed, part, out=part)
    return for_up, for_bias


def _mixed(inner: Inner, parts: Sequence[Tensor], into: Sequence[Tensor]) -> Tensor:
    """Sum of the activations of `parts`, in the first of `into`; all of them are written to."""
    first, *others = (
        _FORWARD[inner](part, out=place) for part, place in zip(parts, into, strict=True)
    )
    for other in others:
        first += other
    return first


def _undo(inner: Inner, seed: Tensor, before: Tensor, *, out: Tensor) -> Tensor:
    """Gradient of what went into an activation."""
    if inner == "relu":
        made: Tensor = _aten.threshold_backward(seed, before, 0, grad_input=out)
    else:
        made = _aten.gelu_backward(seed, before, grad_input=out)
    return made


def _stretches(*whole: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """A few tokens at a time of each, [tokens, width]; None stays None."""
    count = next(one for one in whole if one is not None).shape[:-1].numel()
    calls = -(-count // _STRETCH)
    parts = [[None] * calls if one is None else one.flatten(0, -2).split(_STRETCH) for one in whole]
    yield from zip(*parts, strict=True)
