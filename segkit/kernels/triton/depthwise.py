"""Depthwise 3x3 or 3x3x3 convolutions over channel-last tokens, several dilations at once.

For every branch b: out += act(convolution of x with weight b, dilated in the plane by rate b).
"""

import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import (
    ACTIVATIONS,
    activate,
    activate_slope,
    fresh,
    power_of_two,
)


@triton.jit
def _neighbour(x, t, c, dz, dy, dx, D, H, W, T, C):
    """Tokens at an offset; 0 outside of the volume they belong to."""
    col, row, z = t % W + dx, (t // W) % H + dy, (t // (W * H)) % D + dz
    inside = (t < T) & (col >= 0) & (col < W) & (row >= 0) & (row < H) & (z >= 0) & (z < D)
    place = (t + (dz * H + dy) * W + dx)[:, None] * C + c[None, :]
    return tl.load(x + place, mask=inside[:, None] & (c[None, :] < C), other=0.0).to(tl.float32)


@triton.jit
def _convolve(
    x, weight, bias, b, rate, t, c, D, H, W, T, C,
    DEPTH: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """One branch before its activation."""
    total = tl.zeros((BT, BC), tl.float32)
    total += tl.load(bias + b * C + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    for tap in tl.static_range(9 * DEPTH):
        dz, dy, dx = tap // 9 - DEPTH // 2, ((tap // 3) % 3 - 1) * rate, (tap % 3 - 1) * rate
        w = tl.load(weight + (b * 9 * DEPTH + tap) * C + c, mask=c < C, other=0.0)
        total += _neighbour(x, t, c, dz, dy, dx, D, H, W, T, C) * w.to(tl.float32)[None, :]
    return total


@triton.jit
def _forward(
    x, weight, bias, rates, out, D, H, W, T, C,
    BRANCHES: tl.constexpr, DEPTH: tl.constexpr, ACT: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    t = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros((BT, BC), tl.float32)
    for b in tl.static_range(BRANCHES):
        rate = tl.load(rates + b)
        total += activate(
            _convolve(x, weight, bias, b, rate, t, c, D, H, W, T, C, DEPTH, BT, BC), ACT
        )
    inside = (t[:, None] < T) & (c[None, :] < C)
    tl.store(out + t[:, None] * C + c[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward_weight(
    x, weight, bias, rates, grad, inner, partial, D, H, W, T, C,
    BRANCHES: tl.constexpr, DEPTH: tl.constexpr, ACT: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradient before the activation of each branch, and sums for weight and bias per block."""
    TAPS: tl.constexpr = 9 * DEPTH
    t = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (t[:, None] < T) & (c[None, :] < C)
    g = tl.load(grad + t[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
    for b in tl.static_range(BRANCHES):
        rate = tl.load(rates + b)
        total = _convolve(x, weight, bias, b, rate, t, c, D, H, W, T, C, DEPTH, BT, BC)
        before = g * activate_slope(total, ACT)
        place = (b * T + t[:, None]) * C + c[None, :]
        tl.store(inner + place, before.to(inner.dtype.element_ty), mask=inside)
        base = partial + (tl.program_id(0) * BRANCHES + b) * (TAPS + 1) * C
        for tap in tl.static_range(TAPS):
            dz, dy, dx = tap // 9 - DEPTH // 2, ((tap // 3) % 3 - 1) * rate, (tap % 3 - 1) * rate
            seen = _neighbour(x, t, c, dz, dy, dx, D, H, W, T, C)
            tl.store(base + tap * C + c, tl.sum(seen * before, axis=0), mask=c < C)
        tl.store(base + TAPS * C + c, tl.sum(before, axis=0), mask=c < C)


@triton.jit
def _backward_input(
    inner, weight, rates, before, out, D, H, W, T, C,
    BRANCHES: tl.constexpr, DEPTH: tl.constexpr, ACT: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradient of the input, times the slope of the activation that made it from `before`."""
    t = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros((BT, BC), tl.float32)
    for b in tl.static_range(BRANCHES):
        rate = tl.load(rates + b)
        for tap in tl.static_range(9 * DEPTH):
            dz, dy, dx = tap // 9 - DEPTH // 2, ((tap // 3) % 3 - 1) * rate, (tap % 3 - 1) * rate
            w = tl.load(weight + (b * 9 * DEPTH + tap) * C + c, mask=c < C, other=0.0)
            seen = _neighbour(inner + b * T * C, t, c, -dz, -dy, -dx, D, H, W, T, C)
            total += seen * w.to(tl.float32)[None, :]
    inside = (t[:, None] < T) & (c[None, :] < C)
    place = t[:, None] * C + c[None, :]
    total *= activate_slope(tl.load(before + place, mask=inside, other=0.0).to(tl.float32), ACT)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor, rates: Tensor, act: str) -> Tensor:
    """Sum of the branches for `x [volumes d h w c]`, `weight [branches taps c]`, all contiguous.

    Taps are 9 (in the plane) or 27 (with depth, whose rate is 1).
    """
    out = fresh(x.shape, x)
    sizes, options, grid = _plan(x, weight, act)
    _forward[grid](x, weight, bias, rates, out, *sizes, **options)
    return out


def depthwise_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    rates: Tensor,
    grad: Tensor,
    before: Tensor,
    acts: tuple[str, str],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `before`, weight and bias, where x = acts[1](before), and acts[0] follows."""
    branches = len(weight)
    inner = fresh((branches, *x.shape), x)
    sizes, options, grid = _plan(x, weight, acts[0])
    partial = fresh((grid[0], branches, weight.shape[1] + 1, weight.shape[2]), x).float()
    _backward_weight[grid](x, weight, bias, rates, grad, inner, partial, *sizes, **options)
    grad_before = fresh(x.shape, x)
    options["ACT"] = ACTIVATIONS[acts[1]]
    _backward_input[grid](inner, weight, rates, before, grad_before, *sizes, **options)
    sums = partial.sum(dim=0)
    # outputs of an operator must not share memory
    return (
        grad_before,
        sums[:, :-1].to(weight.dtype, copy=True),
        sums[:, -1].to(bias.dtype, copy=True),
    )


def _plan(
    x: Tensor, weight: Tensor, act: str
) -> tuple[tuple[int, ...], dict[str, int], tuple[int, int]]:
    volumes, d, h, w, c = x.shape
    tokens = volumes * d * h * w
    block_t, block_c = power_of_two(tokens, 16, 64), power_of_two(c, 16, 64)
    options = {
        "BRANCHES": len(weight), "DEPTH": weight.shape[1] // 9, "ACT": ACTIVATIONS[act],
        "BT": block_t, "BC": block_c,
    }  # fmt: skip
    return (d, h, w, tokens, c), options, (triton.cdiv(tokens, block_t), triton.cdiv(c, block_c))
