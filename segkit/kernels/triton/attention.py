"""Attention whose scores carry decomposed relative positions, forward and backward.

    score(i, j) = scale * q_i . k_j + first[i, a(j)] + second[i, b(j)] (+ third[i, c(j)])

where key j lies at (a, b, c) of its grid. The biases are read inside the kernel: no matrix of
queries x keys is ever stored. Backward recomputes the scores from the saved log-sum-exp.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import IS_INTERPRETED, contiguous, fresh, power_of_two, product


@triton.jit
def _scores(
    q, k, rows, cols, first, second, third, head, T, A, B, C, scale,
    HAS_THIRD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Biased scores of query `rows` and key `cols`; -inf where a key does not exist."""
    s = product(q, tl.trans(k), UPCAST) * scale
    base = head * T + rows.to(tl.int64)[:, None]
    inside = (rows[:, None] < T) & (cols[None, :] < T)
    a, b, c = cols // (B * C), (cols // C) % B, cols % C
    s += tl.load(first + base * A + a[None, :], mask=inside, other=0.0).to(tl.float32)
    s += tl.load(second + base * B + b[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_THIRD:
        s += tl.load(third + base * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.where(cols[None, :] < T, s, -float("inf"))


@triton.jit
def _tile(x, head, rows, T, E, BE: tl.constexpr):
    """Rows of one head, zero outside."""
    e = tl.arange(0, BE)
    place = (head * T + rows.to(tl.int64))[:, None] * E + e[None, :]
    return tl.load(x + place, mask=(rows[:, None] < T) & (e[None, :] < E), other=0.0)


@triton.jit
def _put(x, value, head, rows, T, E, BE: tl.constexpr):
    e = tl.arange(0, BE)
    place = (head * T + rows.to(tl.int64))[:, None] * E + e[None, :]
    inside = (rows[:, None] < T) & (e[None, :] < E)
    tl.store(x + place, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _forward(
    q, k, v, first, second, third, out, lse, T, E, A, B, C, scale,
    HAS_THIRD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    query = _tile(q, head, rows, T, E, BE)
    top = tl.full((BM,), -float("inf"), tl.float32)
    total, found = tl.zeros((BM,), tl.float32), tl.zeros((BM, BE), tl.float32)
    for start in range(0, T, BN):
        cols = start + tl.arange(0, BN)
        key, value = _tile(k, head, cols, T, E, BE), _tile(v, head, cols, T, E, BE)
        s = _scores(
            query, key, rows, cols, first, second, third, head, T, A, B, C, scale, HAS_THIRD,
            UPCAST,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(s, axis=1))
        p, shrink = tl.exp(s - higher[:, None]), tl.exp(top - higher)
        total = total * shrink + tl.sum(p, axis=1)
        found = found * shrink[:, None] + product(p.to(value.dtype), value, UPCAST)
        top = higher
    _put(out, found / total[:, None], head, rows, T, E, BE)
    tl.store(lse + head * T + rows, top + tl.log(total), mask=rows < T)


@triton.jit
def _backward_query(
    q, k, v, first, second, third, grad, lse, delta, grad_q, grad_first, grad_second, grad_third,
    T, E, A, B, C, scale,
    HAS_THIRD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
    BA: tl.constexpr, BB: tl.constexpr, BC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Gradients that belong to queries: of q, and of the biases as sums over equal positions."""
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    query, above = _tile(q, head, rows, T, E, BE), _tile(grad, head, rows, T, E, BE)
    row_lse = tl.load(lse + head * T + rows, mask=rows < T, other=0.0)
    row_delta = tl.load(delta + head * T + rows, mask=rows < T, other=0.0)
    total, of_a = tl.zeros((BM, BE), tl.float32), tl.zeros((BM, BA), tl.float32)
    of_b, of_c = tl.zeros((BM, BB), tl.float32), tl.zeros((BM, BC), tl.float32)
    for start in range(0, T, BN):
        cols = start + tl.arange(0, BN)
        key, value = _tile(k, head, cols, T, E, BE), _tile(v, head, cols, T, E, BE)
        s = _scores(
            query, key, rows, cols, first, second, third, head, T, A, B, C, scale, HAS_THIRD,
            UPCAST,
        )  # fmt: skip
        p = tl.exp(s - row_lse[:, None])
        ds = p * (product(above, tl.trans(value), UPCAST) - row_delta[:, None])
        total += product(ds.to(key.dtype), key, UPCAST) * scale
        # a product with one-hot positions adds what belongs to one row, column or slice
        one = (cols // (B * C))[:, None] == tl.arange(0, BA)[None, :]
        of_a += product(ds, one.to(tl.float32), UPCAST)
        one = ((cols // C) % B)[:, None] == tl.arange(0, BB)[None, :]
        of_b += product(ds, one.to(tl.float32), UPCAST)
        if HAS_THIRD:
            one = (cols % C)[:, None] == tl.arange(0, BC)[None, :]
            of_c += product(ds, one.to(tl.float32), UPCAST)
    _put(grad_q, total, head, rows, T, E, BE)
    _put(grad_first, of_a, head, rows, T, A, BA)
    _put(grad_second, of_b, head, rows, T, B, BB)
    if HAS_THIRD:
        _put(grad_third, of_c, head, rows, T, C, BC)


@triton.jit
def _backward_key(
    q, k, v, first, second, third, grad, lse, delta, grad_k, grad_v, T, E, A, B, C, scale,
    HAS_THIRD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BE: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    cols = tl.program_id(0) * BN + tl.arange(0, BN)
    key, value = _tile(k, head, cols, T, E, BE), _tile(v, head, cols, T, E, BE)
    of_k, of_v = tl.zeros((BN, BE), tl.float32), tl.zeros((BN, BE), tl.float32)
    for start in range(0, T, BM):
        rows = start + tl.arange(0, BM)
        query, above = _tile(q, head, rows, T, E, BE), _tile(grad, head, rows, T, E, BE)
        s = _scores(
            query, key, rows, cols, first, second, third, head, T, A, B, C, scale, HAS_THIRD,
            UPCAST,
        )  # fmt: skip
        row_lse = tl.load(lse + head * T + rows, mask=rows < T, other=0.0)
        row_delta = tl.load(delta + head * T + rows, mask=rows < T, other=0.0)
        p = tl.where(rows[:, None] < T, tl.exp(s - row_lse[:, None]), 0.0)
        of_v += product(tl.trans(p).to(above.dtype), above, UPCAST)
        ds = p * (product(above, tl.trans(value), UPCAST) - row_delta[:, None])
        of_k += product(tl.trans(ds).to(query.dtype), query, UPCAST) * scale
    _put(grad_k, of_k, head, cols, T, E, BE)
    _put(grad_v, of_v, head, cols, T, E, BE)


@torch.library.custom_op("segkit::grid_attention", mutates_args=())
def grid_attention(
    q: Tensor, k: Tensor, v: Tensor, first: Tensor, second: Tensor, third: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp for `q`, `k`, `v` [heads tokens e] and biases [heads tokens axis].

    `third` is empty (axis 0) on a plane.
    """
    q, k, v, first, second, third = contiguous((q, k, v, first, second, third))
    heads, tokens, _ = q.shape
    out, lse = fresh(q.shape, q), fresh((heads, tokens), q, torch.float32)
    sizes, options = _plan(q, first, second, third, scale)
    grid = (triton.cdiv(tokens, options["BM"]), heads)
    _forward[grid](q, k, v, first, second, third, out, lse, *sizes, **options)
    return out, lse


@grid_attention.register_fake
def _(q, k, v, first, second, third, scale):
    return torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("segkit::grid_attention_backward", mutates_args=())
def grid_attention_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    first: Tensor,
    second: Tensor,
    third: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the three biases."""
    grad, out, q, k, v, first, second, third = contiguous(
        (grad, out, q, k, v, first, second, third)
    )
    heads, tokens, _ = q.shape
    delta = (grad.float() * out.float()).sum(dim=-1)
    found = [fresh(like.shape, like) for like in (q, k, v, first, second, third)]
    sizes, options = _plan(q, first, second, third, scale)
    of_axes = {
        f"B{name}": power_of_two(bias.shape[2], 16, 1 << 20)
        for name, bias in zip("ABC", (first, second, third), strict=True)
    }
    given = (q, k, v, first, second, third, grad, lse, delta)
    _backward_query[(triton.cdiv(tokens, options["BM"]), heads)](
        *given, found[0], *found[3:], *sizes, **options, **of_axes
    )
    _backward_key[(triton.cdiv(tokens, options["BN"]), heads)](
        *given, found[1], found[2], *sizes, **options
    )
    return found[0], found[1], found[2], found[3], found[4], found[5]


@grid_attention_backward.register_fake
def _(grad, out, lse, q, k, v, first, second, third, scale):
    return tuple(torch.empty_like(like) for like in (q, k, v, first, second, third))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output, *inputs[:6])
    ctx.scale = inputs[6]
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx, grad, _):
    return (*grid_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None)


grid_attention.register_autograd(_gradients, setup_context=_save)


def _plan(
    q: Tensor, first: Tensor, second: Tensor, third: Tensor, scale: float
) -> tuple[tuple[float, ...], dict[str, int]]:
    tokens, width = q.shape[1:]
    axes = [bias.shape[2] for bias in (first, second, third)]
    has_third = axes[2] > 0
    if math.prod(axes if has_third else axes[:2]) != tokens:
        raise ValueError(f"the grid {axes} does not hold {tokens} tokens")
    block = power_of_two(tokens, 16, 32 if width > 64 or q.element_size() > 2 else 64)
    options = {
        "HAS_THIRD": has_third, "BM": block, "BN": block, "BE": power_of_two(width, 16, 256),
        "UPCAST": IS_INTERPRETED,
    }  # fmt: skip
    return (tokens, width, axes[0], axes[1], max(axes[2], 1), scale), options
