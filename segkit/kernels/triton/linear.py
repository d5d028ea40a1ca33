"""Linear layer with activation and residual in one pass over its output."""

import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import (
    ACTIVATIONS,
    IS_INTERPRETED,
    activate,
    activate_slope,
    fresh,
    power_of_two,
    product,
)


@triton.jit
def _linear(
    a, weight, bias, other, out, M, N, K,
    ACT: tl.constexpr, OTHER: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Compute act(a w^T + b), plus `other` (OTHER 1), or its slope times `other` (OTHER 2)."""
    rows = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        left = tl.load(
            a + rows[:, None] * K + k[None, :],
            mask=(rows[:, None] < M) & (k[None, :] < K), other=0.0,
        )  # fmt: skip
        right = tl.load(
            weight + cols[None, :] * K + k[:, None],
            mask=(cols[None, :] < N) & (k[:, None] < K), other=0.0,
        )  # fmt: skip
        total += product(left, right, UPCAST)
    total += tl.load(bias + cols, mask=cols < N, other=0.0).to(tl.float32)[None, :]
    inside = (rows[:, None] < M) & (cols[None, :] < N)
    place = rows[:, None] * N + cols[None, :]
    if OTHER == 2:
        value = activate_slope(total, ACT) * tl.load(other + place, mask=inside, other=0.0)
    else:
        value = activate(total, ACT)
        if OTHER == 1:
            value += tl.load(other + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


def linear(
    a: Tensor, weight: Tensor, bias: Tensor, act: str, residual: Tensor | None = None
) -> Tensor:
    """Return act(a w^T + b) [+ residual] for rows `a [m k]`, `weight [n k]`; all contiguous."""
    return _launch(a, weight, bias, act, residual, 0 if residual is None else 1)


def linear_slope(a: Tensor, weight: Tensor, bias: Tensor, act: str, grad: Tensor) -> Tensor:
    """Gradient of the sum inside the activation: grad * act'(a w^T + b), recomputed."""
    return _launch(a, weight, bias, act, grad, 2)


def _launch(
    a: Tensor, weight: Tensor, bias: Tensor, act: str, other: Tensor | None, mode: int
) -> Tensor:
    (m, k), n = a.shape, len(weight)
    out = fresh((m, n), a)
    block = (power_of_two(m, 16, 64), power_of_two(n, 16, 128), power_of_two(k, 16, 32))
    grid = (triton.cdiv(m, block[0]), triton.cdiv(n, block[1]))
    _linear[grid](
        a, weight, bias, a if other is None else other, out, m, n, k,
        ACT=ACTIVATIONS[act], OTHER=mode, BM=block[0], BN=block[1], BK=block[2],
        UPCAST=IS_INTERPRETED,
    )  # fmt: skip
    return out
