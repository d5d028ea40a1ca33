"""High-pass image as a separable projection: two matrix products in the place of two transforms.

Dropping a box of frequencies is low = Re(P X Q'), P and Q the projections onto the frequencies of
an axis. They are A + iB, so low = A X A' - B X B'. A is symmetric. B comes from the one frequency
without its mirror image, as the box is asymmetric; it has rank 2, and its part is four numbers per
map times two waves per axis. The map from X to X - low is its own transpose, so the backward pass
is the same two products.
"""

import math
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import contiguous, dot_mode, fresh, launch, power_of_two, product


@triton.jit
def _left(
    band, x, out, H, W, BLOCKS_H, BLOCKS_W,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Band times map."""
    blocks = BLOCKS_H * BLOCKS_W
    n, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    i = (block // BLOCKS_W) * BM + tl.arange(0, BM)
    j = (block % BLOCKS_W) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, H, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(
            band + i[:, None] * H + k[None, :], mask=(i < H)[:, None] & (k < H)[None, :], other=0.0
        )
        right = tl.load(
            x + (n * H + k)[:, None] * W + j[None, :],
            mask=(k < H)[:, None] & (j < W)[None, :], other=0.0,
        )  # fmt: skip
        total += product(left, right.to(tl.float32), DOT)
    inside = (i < H)[:, None] & (j < W)[None, :]
    tl.store(out + (n * H + i)[:, None] * W + j[None, :], total, mask=inside)


@triton.jit
def _right(
    lines, band, x, waves_h, waves_w, corners, out, H, W, BLOCKS_H, BLOCKS_W,
    IS_MAGNITUDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """Map minus (`lines` times band minus the unpaired part)."""
    blocks = BLOCKS_H * BLOCKS_W
    n, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    i = (block // BLOCKS_W) * BM + tl.arange(0, BM)
    j = (block % BLOCKS_W) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, W, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(
            lines + (n * H + i)[:, None] * W + k[None, :],
            mask=(i < H)[:, None] & (k < W)[None, :], other=0.0,
        )  # fmt: skip
        right = tl.load(
            band + k[:, None] * W + j[None, :], mask=(k < W)[:, None] & (j < W)[None, :], other=0.0
        )
        total += product(left, right, DOT)
    for first in tl.static_range(2):
        of_row = tl.load(waves_h + first * H + i, mask=i < H, other=0.0)
        for second in tl.static_range(2):
            of_col = tl.load(waves_w + second * W + j, mask=j < W, other=0.0)
            number = tl.load(corners + n * 4 + first * 2 + second)
            total -= number * of_row[:, None] * of_col[None, :]
    inside = (i < H)[:, None] & (j < W)[None, :]
    place = (n * H + i)[:, None] * W + j[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - total
    if IS_MAGNITUDE:
        value = tl.abs(value)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@torch.library.custom_op("segkit::high_pass", mutates_args=())
def high_pass(
    x: Tensor, half_h: int, half_w: int, is_magnitude: bool, dtype: torch.dtype
) -> Tensor:
    """Maps [n h w] without frequencies -half <= f < half of both axes; see `kernels.highpass`."""
    (x,) = contiguous((x,))
    n, h, w = x.shape
    (band_h, waves_h), (band_w, waves_w) = (
        _band(size, half, x.device) for size, half in ((h, half_h), (w, half_w))
    )
    lines, out = fresh(x.shape, x, torch.float32), fresh(x.shape, x, dtype)
    blocks = (triton.cdiv(h, power_of_two(h, 16, 64)), triton.cdiv(w, power_of_two(w, 16, 64)))
    options: dict[str, Any] = {
        "BM": power_of_two(h, 16, 64), "BN": power_of_two(w, 16, 64), "BK": 32,
        "DOT": _dots(dtype, x.device),
    }  # fmt: skip
    grid = (n * blocks[0] * blocks[1],)
    launch(_left, grid, band_h, x, lines, h, w, *blocks, **options)
    launch(
        _right, grid, lines, band_w, x, waves_h, waves_w, _corners(x, waves_h, waves_w), out,
        h, w, *blocks, IS_MAGNITUDE=is_magnitude, **options,
    )  # fmt: skip
    return out


@high_pass.register_fake
def _(x, half_h, half_w, is_magnitude, dtype):
    return x.new_empty(x.shape, dtype=dtype)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.halves, ctx.is_magnitude = inputs[1:3], inputs[3]


def _gradients(ctx, grad):
    (x,) = ctx.saved_tensors
    exact = (*ctx.halves, False, torch.float32)
    above = grad.float()
    if ctx.is_magnitude:
        above = above * high_pass(x, *exact).sign()
    return high_pass(above, *exact).to(x.dtype), None, None, None, None


high_pass.register_autograd(_gradients, setup_context=_save)


def _dots(dtype: torch.dtype, device: torch.device) -> str:
    mode = dot_mode(torch.float32, device)
    # a result of eight or eleven bits does not show the rounding of one tf32 product
    return "tf32" if mode == "tf32x3" and dtype != torch.float32 else mode


def _corners(x: Tensor, waves_h: Tensor, waves_w: Tensor) -> Tensor:
    """What the unpaired frequency of both axes sees in each map, [n 2 2]."""
    with torch.autocast(x.device.type, enabled=False):
        seen = waves_h @ x.float() @ waves_w.t()  # cosine and sine of rows by those of columns
    # with B = c s' - s c' of each axis, B X B' = sum over waves of (turned `seen`) wave wave'
    cc, cs, sc, ss = seen.flatten(1).unbind(dim=1)
    return torch.stack([ss, -sc, -cs, cc], dim=1)


@lru_cache(maxsize=16)
def _band(size: int, half: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Symmetric part A of the projection, and the two waves that span the rest."""
    frequency = torch.arange(size, dtype=torch.float64)
    frequency -= size * (frequency >= (size + 1) // 2)
    is_low = (frequency >= -half) & (frequency < half)
    row = torch.fft.ifft(is_low.to(torch.complex128)).real
    index = torch.arange(size)
    band = row[(index[:, None] - index[None]) % size]
    is_unpaired = 0 < half <= (size - 1) // 2
    angle = 2 * math.pi * half / size * index.double()
    waves = torch.stack([angle.cos(), angle.sin()]) * (is_unpaired / math.sqrt(size))
    return band.to(device, torch.float32), waves.to(device, torch.float32)
