"""Adapter bottlenecks as one differentiable operation: linear, depthwise, linear, residual.

    z = x Wd + bd;  h = inner(z);  m = sum_b inner(depthwise_b(h));  out = x + outer(m Wu + bu)

The backward pass keeps x alone and computes the rest again. Weights have the type that products
are made in; x may be wider, as under autocast, and is added as it is.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from segkit.kernels.triton.depthwise import depthwise, depthwise_backward
from segkit.kernels.triton.launch import contiguous
from segkit.kernels.triton.linear import linear, linear_slope, linear_twice


@torch.library.custom_op("segkit::bottleneck", mutates_args=())
def bottleneck(
    x: Tensor,
    down: Tensor,
    down_bias: Tensor,
    weight: Tensor,
    weight_bias: Tensor,
    rates: Sequence[int],
    up: Tensor,
    up_bias: Tensor,
    inner: str,
    outer: str,
) -> Tensor:
    """Output for `x [volumes d h w c]`, `down [m c]`, `weight [b taps m]`, `up [c m]`."""
    x, down, down_bias, weight, weight_bias, up, up_bias = contiguous(
        (x, down, down_bias, weight, weight_bias, up, up_bias)
    )
    rows, steps = x.flatten(0, 3), _on_device(tuple(rates), x.device)
    hidden = linear(rows, down, down_bias, inner).unflatten(0, x.shape[:4])
    mixed = depthwise(hidden, weight, weight_bias, steps, inner)
    return linear(mixed.flatten(0, 3), up, up_bias, outer, rows).view(x.shape)


@bottleneck.register_fake
def _(x, down, down_bias, weight, weight_bias, rates, up, up_bias, inner, outer):
    return x.new_empty(x.shape)


@torch.library.custom_op("segkit::bottleneck_backward", mutates_args=())
def bottleneck_backward(
    grad: Tensor,
    x: Tensor,
    down: Tensor,
    down_bias: Tensor,
    weight: Tensor,
    weight_bias: Tensor,
    rates: Sequence[int],
    up: Tensor,
    up_bias: Tensor,
    inner: str,
    outer: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, down, down_bias, weight, weight_bias, up and up_bias."""
    grad, x, down, down_bias, weight, weight_bias, up, up_bias = contiguous(
        (grad, x, down, down_bias, weight, weight_bias, up, up_bias)
    )
    rows, above, steps = x.flatten(0, 3), grad.flatten(0, 3), _on_device(tuple(rates), x.device)
    z, h = linear_twice(rows, down, down_bias, inner)
    hidden = h.unflatten(0, x.shape[:4])
    mixed = depthwise(hidden, weight, weight_bias, steps, inner).flatten(0, 3)
    grad_sum = (
        above.to(up.dtype) if outer == "none" else linear_slope(mixed, up, up_bias, outer, above)
    )
    grad_mixed = (grad_sum @ up).view(hidden.shape)
    grad_z, grad_weight, grad_weight_bias = depthwise_backward(
        hidden, weight, weight_bias, steps, grad_mixed, z, (inner, inner)
    )
    flat_z = grad_z.flatten(0, 3)
    return (
        linear(flat_z, down.t().contiguous(), None, "none", above).view(x.shape),
        flat_z.t() @ rows.to(flat_z.dtype),
        flat_z.sum(dim=0),
        grad_weight,
        grad_weight_bias,
        grad_sum.t() @ mixed,
        grad_sum.sum(dim=0),
    )


@bottleneck_backward.register_fake
def _(grad, x, down, down_bias, weight, weight_bias, rates, up, up_bias, inner, outer):
    return tuple(
        like.new_empty(like.shape)
        for like in (x, down, down_bias, weight, weight_bias, up, up_bias)
    )


def _save(ctx, inputs, output) -> None:
    *given, rates, up, up_bias, inner, outer = inputs
    ctx.save_for_backward(*given, up, up_bias)
    ctx.options = rates, inner, outer


def _gradients(ctx, grad):
    *given, up, up_bias = ctx.saved_tensors
    rates, *acts = ctx.options
    found = bottleneck_backward(grad, *given, rates, up, up_bias, *acts)
    return (*found[:5], None, *found[5:], None, None)


bottleneck.register_autograd(_gradients, setup_context=_save)


@lru_cache(maxsize=64)
def _on_device(rates: tuple[int, ...], device: torch.device) -> Tensor:
    # copied once: a copy in every call would wait for the device
    return torch.tensor(rates, dtype=torch.int32, device=device)
