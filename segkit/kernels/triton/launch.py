"""What all kernels share: activations, products, and launch sizes chosen by plain functions."""

import os
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""The interpreter multiplies bf16 matrices wrongly, so products are made in float32 there."""

NONE, RELU, GELU = (tl.constexpr(value) for value in (0, 1, 2))
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}


@triton.jit
def activate(x, ACT: tl.constexpr):
    """No activation, ReLU, or exact GELU."""
    if ACT == 1:
        x = tl.maximum(x, 0.0)
    if ACT == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return x


@triton.jit
def activate_slope(x, ACT: tl.constexpr):
    """Derivative of `activate`; that of ReLU at 0 is 0, as in torch."""
    slope = x * 0.0 + 1.0
    if ACT == 1:
        slope = tl.where(x > 0.0, 1.0, 0.0)
    if ACT == 2:
        slope = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        slope += x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    return slope


@triton.jit
def product(a, b, UPCAST: tl.constexpr):
    """Matrix product with float32 sums; float32 factors are not rounded to tf32."""
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


def power_of_two(size: int, low: int, high: int) -> int:
    """Smallest power of two that holds `size`, between `low` and `high`."""
    return min(high, max(low, triton.next_power_of_2(size)))


def contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Kernels index rows by width; copies only what is laid out otherwise."""
    return [tensor.contiguous() for tensor in tensors]


def fresh(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory that a kernel fills; tests poison it."""
    return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device)
