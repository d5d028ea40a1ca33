"""Linear layer with activation and residual in one pass over its output."""

import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import (
    ACTIVATIONS,
    activate,
    activate_slope,
    dot_mode,
    fresh,
    launch,
    power_of_two,
    product,
)


@triton.jit
def _linear(
    a, weight, bias, other, out, M, N, K,
    ACT: tl.constexpr, OTHER: tl.constexpr, HAS_BIAS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Compute act(a w^T + b).

    `other` is added (OTHER 1), or multiplied with the slope instead of the value (2), or receives
    the sum before the activation (3).
    """
    # neighbouring programs share rows of `a`
    blocks = tl.cdiv(N, BN)
    rows = (tl.program_id(0) // blocks).to(tl.int64) * BM + tl.arange(0, BM)
    cols = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
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
        total += product(left.to(weight.dtype.element_ty), right, DOT)
    if HAS_BIAS:
        total += tl.load(bias + cols, mask=cols < N, other=0.0).to(tl.float32)[None, :]
    inside = (rows[:, None] < M) & (cols[None, :] < N)
    place = rows[:, None] * N + cols[None, :]
    if OTHER == 2:
        value = activate_slope(total, ACT) * tl.load(other + place, mask=inside, other=0.0)
    else:
        if OTHER == 3:
            tl.store(other + place, total.to(other.dtype.element_ty), mask=inside)
            # as if computed from what was stored
            total = total.to(other.dtype.element_ty).to(tl.float32)
        value = activate(total, ACT)
        if OTHER == 1:
            value += tl.load(other + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


def linear(
    a: Tensor, weight: Tensor, bias: Tensor | None, act: str, residual: Tensor | None = None
) -> Tensor:
    """Return act(a w^T + b) [+ residual] for rows `a [m k]`, `weight [n k]`; all contiguous.

    The type is that of the residual, else of the weight; `a` may be wider than the weight.
    """
    out = fresh((len(a), len(weight)), weight if residual is None else residual)
    return _launch(a, weight, bias, act, residual, 0 if residual is None else 1, out)


def linear_twice(a: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> tuple[Tensor, Tensor]:
    """Return a w^T + b, and its activation."""
    before, out = (fresh((len(a), len(weight)), weight) for _ in range(2))
    return before, _launch(a, weight, bias, act, before, 3, out)


def linear_slope(a: Tensor, weight: Tensor, bias: Tensor, act: str, grad: Tensor) -> Tensor:
    """Gradient of the sum inside the activation: grad * act'(a w^T + b), recomputed."""
    return _launch(a, weight, bias, act, grad, 2, fresh((len(a), len(weight)), weight))


def _launch(
    a: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    act: str,
    other: Tensor | None,
    mode: int,
    out: Tensor,
) -> Tensor:
    (m, k), n = a.shape, len(weight)
    is_wide = a.element_size() > 2
    sides = (power_of_two(m, 16, 64 if is_wide else 128), power_of_two(n, 16, 64))
    launch(
        _linear, (triton.cdiv(m, sides[0]) * triton.cdiv(n, sides[1]),),
        a, weight, bias, out if other is None else other, out, m, n, k,
        ACT=ACTIVATIONS[act], OTHER=mode, HAS_BIAS=bias is not None,
        BM=sides[0], BN=sides[1], BK=power_of_two(k, 16, 32 if is_wide else 64),
        DOT=dot_mode(weight.dtype, a.device), stages=2 if is_wide else 3,
    )  # fmt: skip
    return out
