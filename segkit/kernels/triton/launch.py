"""What all kernels share: activations, products, and launches with sizes from plain functions."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.dispatch import shared_bytes

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

NONE, RELU, GELU, QUICK_GELU = (tl.constexpr(value) for value in (0, 1, 2, 3))
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "quick_gelu": 3}


class Card(NamedTuple):
    """What block sizes depend on: compute capability and shared memory of one program."""

    capability: int
    shared_bytes: int


@triton.jit
def activate(x, ACT: tl.constexpr):
    """No activation, ReLU, exact GELU, or x sigmoid(1.702 x)."""
    if ACT == 1:
        x = tl.maximum(x, 0.0)
    if ACT == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if ACT == 3:
        x = x / (1.0 + tl.exp(-1.702 * x))
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
    if ACT == 3:
        gate = 1.0 / (1.0 + tl.exp(-1.702 * x))
        slope = gate * (1.0 + 1.702 * x * (1.0 - gate))
    return slope


@triton.jit
def product(a, b, DOT: tl.constexpr):
    """Matrix product with float32 sums, in the precision that `dot_mode` chose."""
    if DOT == "upcast":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision=DOT)


def dot_mode(dtype: torch.dtype, device: torch.device) -> str:
    """How matrices are multiplied: float32 as torch's setting of float32 products asks.

    "highest" (torch's default) takes three tf32 products each, accurate to float32 rounding, where
    tensor cores have tf32; "high" and "medium" take one. The interpreter multiplies bf16 matrices
    wrongly, so there factors are made float32.
    """
    if IS_INTERPRETED:
        return "upcast"
    if dtype != torch.float32 or card(device).capability < 80:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@lru_cache
def card(device: torch.device) -> Card:
    """Facts of a CUDA device; elsewhere those of the smallest one supported."""
    if device.type != "cuda":
        return Card(80, 99 * 1024)
    about = torch.cuda.get_device_properties(device)
    return Card(10 * about.major + about.minor, shared_bytes(device))


def launch(
    kernel: Any, grid: Sequence[int], *args: Any, warps: int = 4, stages: int = 2, **constants: Any
) -> None:
    """Run a kernel on the device of its first tensor; nothing to do on an empty grid."""
    if 0 in grid:
        return
    device = args[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[tuple(grid)](
            *args, **constants, num_warps=warps, num_stages=stages, enable_fp_fusion=True
        )


def power_of_two(size: int, low: int, high: int) -> int:
    """Smallest power of two that holds `size`, between `low` and `high`."""
    return min(high, max(low, triton.next_power_of_2(size)))


def contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Kernels index rows by width; copies only what is laid out otherwise."""
    return [tensor.contiguous() for tensor in tensors]


def fresh(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory that a kernel fills; tests poison it."""
    return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device)
