"""Depthwise 3x3 or 3x3x3 convolutions over channel-last tokens, several dilations at once.

For every branch b: out += act(convolution of x with weight b, dilated in the plane by rate b).
Tiles are small and lines of taps are a loop: unrolled, the taps do not fit the registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import (
    ACTIVATIONS,
    activate,
    activate_slope,
    fresh,
    launch,
    power_of_two,
)

_TILE = 2048  # values of a tile: 16 per thread
_MOST_TOKENS = 2**31 - 2**16


@triton.jit
def _neighbour(x, first, t, c, dz, dy, dx, D, H, W, T, C):
    """Tokens at an offset; 0 outside of the volume they belong to."""
    col, row, z = t % W + dx, (t // W) % H + dy, (t // (W * H)) % D + dz
    inside = (t < T) & (col >= 0) & (col < W) & (row >= 0) & (row < H) & (z >= 0) & (z < D)
    place = (first + t + (dz * H + dy) * W + dx).to(tl.int64)[:, None] * C + c[None, :]
    return tl.load(x + place, mask=inside[:, None] & (c[None, :] < C), other=0.0).to(tl.float32)


@triton.jit
def _taps(
    x, first, weight, b, step, rate, t, c, D, H, W, T, C,
    DEPTH: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sum over the taps of branch b; `step` -1 reads opposite neighbours."""
    total = tl.zeros((BT, BC), tl.float32)
    for line in range(3 * DEPTH):
        dz, dy = (line // 3 - DEPTH // 2) * step, (line % 3 - 1) * rate * step
        for side in tl.static_range(3):
            tap = (b * 3 * DEPTH + line) * 3 + side
            w = tl.load(weight + tap * C + c, mask=c < C, other=0.0).to(tl.float32)
            dx = (side - 1) * rate * step
            total += _neighbour(x, first, t, c, dz, dy, dx, D, H, W, T, C) * w[None, :]
    return total


@triton.jit
def _forward(
    x, weight, bias, rates, out, grad, D, H, W, T, C,
    BRANCHES: tl.constexpr, DEPTH: tl.constexpr, ACT: tl.constexpr, SLOPES: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sum of the activated branches; or, of each branch, `grad` before its activation."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (t[:, None] < T) & (c[None, :] < C)
    place = t.to(tl.int64)[:, None] * C + c[None, :]
    total = tl.zeros((BT, BC), tl.float32)
    for b in tl.static_range(BRANCHES):
        rate = tl.load(rates + b)
        sums = _taps(x, 0, weight, b, 1, rate, t, c, D, H, W, T, C, DEPTH, BT, BC)
        sums += tl.load(bias + b * C + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
        if SLOPES:
            above = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
            own = (b * T + t).to(tl.int64)[:, None] * C + c[None, :]
            before = above * activate_slope(sums, ACT)
            tl.store(out + own, before.to(out.dtype.element_ty), mask=inside)
        else:
            total += activate(sums, ACT)
    if not SLOPES:
        tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward_weight(
    x, inner, rates, partial, D, H, W, T, C, TILES,
    BRANCHES: tl.constexpr, DEPTH: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sums over a run of tiles for the weight and the bias of one branch.

    A line of taps visits the run again, which is in the cache by then.
    """
    b, run = tl.program_id(2), tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    rate = tl.load(rates + b)
    base = partial + (run * BRANCHES + b) * (9 * DEPTH + 1) * C + c
    for line in range(3 * DEPTH + 1):
        dz, dy = line // 3 - DEPTH // 2, (line % 3 - 1) * rate
        left, middle = tl.zeros((BT, BC), tl.float32), tl.zeros((BT, BC), tl.float32)
        right = tl.zeros((BT, BC), tl.float32)
        for tile in range(TILES):
            t = (tl.program_id(0) * TILES + tile) * BT + tl.arange(0, BT)
            g = _neighbour(inner, b * T, t, c, 0, 0, 0, D, H, W, T, C)
            if line < 3 * DEPTH:
                left += g * _neighbour(x, 0, t, c, dz, dy, -rate, D, H, W, T, C)
                middle += g * _neighbour(x, 0, t, c, dz, dy, 0, D, H, W, T, C)
                right += g * _neighbour(x, 0, t, c, dz, dy, rate, D, H, W, T, C)
            else:
                left += g
        tl.store(base + line * 3 * C, tl.sum(left, axis=0), mask=c < C)
        if line < 3 * DEPTH:
            tl.store(base + (line * 3 + 1) * C, tl.sum(middle, axis=0), mask=c < C)
            tl.store(base + (line * 3 + 2) * C, tl.sum(right, axis=0), mask=c < C)


@triton.jit
def _backward_input(
    inner, weight, rates, before, out, D, H, W, T, C,
    BRANCHES: tl.constexpr, DEPTH: tl.constexpr, ACT: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradient of the input, times the slope of the activation that made it from `before`."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros((BT, BC), tl.float32)
    for b in tl.static_range(BRANCHES):
        rate = tl.load(rates + b)
        total += _taps(inner, b * T, weight, b, -1, rate, t, c, D, H, W, T, C, DEPTH, BT, BC)
    inside = (t[:, None] < T) & (c[None, :] < C)
    place = t.to(tl.int64)[:, None] * C + c[None, :]
    total *= activate_slope(tl.load(before + place, mask=inside, other=0.0).to(tl.float32), ACT)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor, rates: Tensor, act: str) -> Tensor:
    """Sum of the branches for `x [volumes d h w c]`, `weight [branches taps c]`, all contiguous.

    Taps are 9 (in the plane) or 27 (with depth, whose rate is 1).
    """
    out = fresh(x.shape, x)
    sizes, options, grid = _plan(x, weight)
    launch(
        _forward, grid, x, weight, bias, rates, out, out, *sizes, **options,
        ACT=ACTIVATIONS[act], SLOPES=False,
    )  # fmt: skip
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
    inner, grad_before = fresh((len(weight), *x.shape), x), fresh(x.shape, x)
    sizes, options, grid = _plan(x, weight)
    launch(
        _forward, grid, x, weight, bias, rates, inner, grad, *sizes, **options,
        ACT=ACTIVATIONS[acts[0]], SLOPES=True,
    )  # fmt: skip
    tiles = _tiles(grid, len(weight))
    runs = triton.cdiv(grid[0], tiles)
    partial = fresh((runs, len(weight), weight.shape[1] + 1, weight.shape[2]), x, torch.float32)
    launch(
        _backward_weight, (runs, grid[1], len(weight)), x, inner, rates, partial, *sizes, tiles,
        **options,
    )  # fmt: skip
    launch(
        _backward_input, grid, inner, weight, rates, before, grad_before, *sizes, **options,
        ACT=ACTIVATIONS[acts[1]],
    )  # fmt: skip
    sums = partial.sum(dim=0)
    # outputs of an operator must not share memory
    return (
        grad_before,
        sums[:, :-1].to(weight.dtype, copy=True),
        sums[:, -1].to(bias.dtype, copy=True),
    )


def _tiles(grid: tuple[int, int], branches: int) -> int:
    """Tiles per run: as many as leave a few programs for every processor, at most 32."""
    return max(1, min(32, grid[0] * grid[1] * branches // 1024))


def _plan(x: Tensor, weight: Tensor) -> tuple[tuple[int, ...], dict[str, int], tuple[int, int]]:
    volumes, d, h, w, c = x.shape
    tokens = volumes * d * h * w
    if tokens * len(weight) > _MOST_TOKENS:
        raise ValueError(f"tokens x branches must be < 2^31, got {tokens} x {len(weight)}")
    block_c = power_of_two(c, 16, 64)
    block_t = power_of_two(tokens, 16, _TILE // block_c)
    options = {
        "BRANCHES": len(weight), "DEPTH": weight.shape[1] // 9, "BT": block_t, "BC": block_c,
    }  # fmt: skip
    return (d, h, w, tokens, c), options, (triton.cdiv(tokens, block_t), triton.cdiv(c, block_c))
