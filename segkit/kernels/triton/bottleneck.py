"""Adapter bottlenecks as one differentiable operation: linear, depthwise, linear, residual.

    z = x Wd + bd;  h = inner(z);  m = sum_b inner(depthwise_b(h));  out = x + outer(m Wu + bu)

The backward pass keeps x and z and computes the rest again.
"""

import torch
from torch import Tensor

from segkit.kernels.triton.depthwise import depthwise, depthwise_backward
from segkit.kernels.triton.launch import contiguous
from segkit.kernels.triton.linear import linear, linear_slope

_ACT = {"gelu": torch.nn.functional.gelu, "relu": torch.relu}


@torch.library.custom_op("segkit::bottleneck", mutates_args=())
def bottleneck(
    x: Tensor,
    down: Tensor,
    down_bias: Tensor,
    weight: Tensor,
    weight_bias: Tensor,
    rates: Tensor,
    up: Tensor,
    up_bias: Tensor,
    inner: str,
    outer: str,
) -> tuple[Tensor, Tensor]:
    """Output and z for `x [volumes d h w c]`, `down [m c]`, `weight [b taps m]`, `up [c m]`."""
    x, down, down_bias, weight, weight_bias, up, up_bias = contiguous(
        (x, down, down_bias, weight, weight_bias, up, up_bias)
    )
    rows = x.flatten(0, 3)
    z = linear(rows, down, down_bias, "none")
    hidden = _ACT[inner](z).unflatten(0, x.shape[:4])
    mixed = depthwise(hidden, weight, weight_bias, rates, inner)
    out = linear(mixed.flatten(0, 3), up, up_bias, outer, rows)
    return out.view(x.shape), z.view(*x.shape[:4], -1)


@bottleneck.register_fake
def _(x, down, down_bias, weight, weight_bias, rates, up, up_bias, inner, outer):
    return torch.empty_like(x), x.new_empty((*x.shape[:4], len(down)))


@torch.library.custom_op("segkit::bottleneck_backward", mutates_args=())
def bottleneck_backward(
    grad: Tensor,
    x: Tensor,
    z: Tensor,
    down: Tensor,
    weight: Tensor,
    weight_bias: Tensor,
    rates: Tensor,
    up: Tensor,
    up_bias: Tensor,
    inner: str,
    outer: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, down, down_bias, weight, weight_bias, up and up_bias."""
    grad, x, z, down, weight, weight_bias, up, up_bias = contiguous(
        (grad, x, z, down, weight, weight_bias, up, up_bias)
    )
    rows, hidden = x.flatten(0, 3), _ACT[inner](z)
    mixed = depthwise(hidden, weight, weight_bias, rates, inner)
    flat = mixed.flatten(0, 3)
    grad_sum = linear_slope(flat, up, up_bias, outer, grad.flatten(0, 3))
    grad_mixed = (grad_sum @ up).view(hidden.shape)
    grad_z, grad_weight, grad_weight_bias = depthwise_backward(
        hidden, weight, weight_bias, rates, grad_mixed, z, (inner, inner)
    )
    flat_z = grad_z.flatten(0, 3)
    return (
        torch.addmm(grad.flatten(0, 3), flat_z, down).view(x.shape),
        flat_z.T @ rows,
        flat_z.sum(dim=0),
        grad_weight,
        grad_weight_bias,
        grad_sum.T @ flat,
        grad_sum.sum(dim=0),
    )


@bottleneck_backward.register_fake
def _(grad, x, z, down, weight, weight_bias, rates, up, up_bias, inner, outer):
    shapes = (x, down, z.new_empty(len(down)), weight, weight_bias, up, up_bias)
    return tuple(torch.empty_like(like) for like in shapes)


def _save(ctx, inputs, output) -> None:
    x, down, _, weight, weight_bias, rates, up, up_bias, inner, outer = inputs
    ctx.save_for_backward(x, output[1], down, weight, weight_bias, rates, up, up_bias)
    ctx.acts = (inner, outer)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx, grad, _):
    found = bottleneck_backward(grad, *ctx.saved_tensors, *ctx.acts)
    return (*found[:5], None, *found[5:], None, None)


bottleneck.register_autograd(_gradients, setup_context=_save)
