"""Attention whose scores carry decomposed relative positions, forward and backward.

    score(i, j) = scale * q_i . k_j (+ slice[i, p(j)]) + row[i, r(j)] + column[i, s(j)]

where key j lies at (p, r, s) of its grid, s fastest. A block of keys is a number of whole lines of
the grid, padded to BS columns: its column bias is the same for every block and stays in registers,
and its row bias is one number per query where a block is one line. No matrix of queries x keys is
ever stored. Backward recomputes the scores from the saved log-sum-exp; nothing is added atomically.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import contiguous, dot_mode, fresh, launch, power_of_two, product


@triton.jit
def _tile(x, head, rows, is_row, T, E, BE: tl.constexpr):
    """Rows of one head, zero outside."""
    e = tl.arange(0, BE)
    place = (head * T + rows)[:, None] * E + e[None, :]
    return tl.load(x + place, mask=is_row[:, None] & (e[None, :] < E), other=0.0)


@triton.jit
def _put(x, value, head, rows, is_row, T, E, BE: tl.constexpr):
    e = tl.arange(0, BE)
    place = (head * T + rows)[:, None] * E + e[None, :]
    tl.store(x + place, value.to(x.dtype.element_ty), mask=is_row[:, None] & (e[None, :] < E))


@triton.jit
def _keys(line, P, R, S, NR: tl.constexpr, BS: tl.constexpr):
    """Lines, columns and tokens of a block of keys, and which of them exist."""
    j = tl.arange(0, NR * BS)
    lines, cols = line + j // BS, j % BS
    return lines, cols, lines * S + cols, (lines < P * R) & (cols < S)


@triton.jit
def _column_bias(column, head, rows, is_row, cols, T, S):
    place = (head * T + rows)[:, None] * S + cols[None, :]
    return tl.load(column + place, mask=is_row[:, None] & (cols[None, :] < S), other=0.0)


@triton.jit
def _scores(
    q, k, bias, slices, row, head, rows, is_row, line, lines, is_key, T, P, R, scale,
    HAS_SLICES: tl.constexpr, NR: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Biased scores; -inf where a key does not exist."""
    s = product(q, tl.trans(k), DOT) * scale + bias.to(tl.float32)
    own = head * T + rows
    if NR == 1:
        add = tl.load(row + own * R + line % R, mask=is_row, other=0.0).to(tl.float32)
        if HAS_SLICES:
            add += tl.load(slices + own * P + line // R, mask=is_row, other=0.0).to(tl.float32)
        s += add[:, None]
    else:
        inside = is_row[:, None] & is_key[None, :]
        s += tl.load(row + own[:, None] * R + (lines % R)[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
        if HAS_SLICES:
            at = own[:, None] * P + (lines // R)[None, :]
            s += tl.load(slices + at, mask=inside, other=0.0).to(tl.float32)
    return tl.where(is_key[None, :], s, -float("inf"))


@triton.jit
def _forward(
    q, k, v, slices, row, column, out, lse, T, E, P, R, S, TILES, scale,
    HAS_SLICES: tl.constexpr, NR: tl.constexpr, BS: tl.constexpr, BM: tl.constexpr,
    BE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    head = (tl.program_id(0) // TILES).to(tl.int64)
    rows = (tl.program_id(0) % TILES) * BM + tl.arange(0, BM)
    is_row = rows < T
    query = _tile(q, head, rows, is_row, T, E, BE)
    bias = _column_bias(column, head, rows, is_row, tl.arange(0, NR * BS) % BS, T, S)
    top = tl.full((BM,), -float("inf"), tl.float32)
    total, found = tl.zeros((BM,), tl.float32), tl.zeros((BM, BE), tl.float32)
    for line in range(0, P * R, NR):
        lines, _, cols, is_key = _keys(line, P, R, S, NR, BS)
        key = _tile(k, head, cols, is_key, T, E, BE)
        value = _tile(v, head, cols, is_key, T, E, BE)
        s = _scores(
            query, key, bias, slices, row, head, rows, is_row, line, lines, is_key, T, P, R,
            scale, HAS_SLICES, NR, DOT,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(s, axis=1))
        p, shrink = tl.exp(s - higher[:, None]), tl.exp(top - higher)
        total = total * shrink + tl.sum(p, axis=1)
        found = found * shrink[:, None] + product(p.to(value.dtype), value, DOT)
        top = higher
    _put(out, found / total[:, None], head, rows, is_row, T, E, BE)
    tl.store(lse + head * T + rows, top + tl.log(total), mask=is_row)


@triton.jit
def _backward_query(
    q, k, v, slices, row, column, grad, lse, delta, grad_q, grad_slices, grad_row, grad_column,
    T, E, P, R, S, TILES, scale,
    HAS_SLICES: tl.constexpr, NR: tl.constexpr, BS: tl.constexpr, BM: tl.constexpr,
    BE: tl.constexpr, BP: tl.constexpr, BR: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Gradients that belong to queries: of q, and of the biases as sums over equal positions."""
    head = (tl.program_id(0) // TILES).to(tl.int64)
    rows = (tl.program_id(0) % TILES) * BM + tl.arange(0, BM)
    is_row = rows < T
    own = head * T + rows
    query = _tile(q, head, rows, is_row, T, E, BE)
    above = _tile(grad, head, rows, is_row, T, E, BE)
    bias = _column_bias(column, head, rows, is_row, tl.arange(0, NR * BS) % BS, T, S)
    row_lse = tl.load(lse + own, mask=is_row, other=0.0)
    row_delta = tl.load(delta + own, mask=is_row, other=0.0)
    total, of_column = tl.zeros((BM, BE), tl.float32), tl.zeros((BM, NR * BS), tl.float32)
    if HAS_SLICES or NR > 1:
        of_row = tl.zeros((BM, BR), tl.float32)
    if HAS_SLICES:
        of_slices = tl.zeros((BM, BP), tl.float32)
    for line in range(0, P * R, NR):
        lines, _, cols, is_key = _keys(line, P, R, S, NR, BS)
        key = _tile(k, head, cols, is_key, T, E, BE)
        value = _tile(v, head, cols, is_key, T, E, BE)
        s = _scores(
            query, key, bias, slices, row, head, rows, is_row, line, lines, is_key, T, P, R,
            scale, HAS_SLICES, NR, DOT,
        )  # fmt: skip
        p = tl.exp(s - row_lse[:, None])
        ds = p * (product(above, tl.trans(value), DOT) - row_delta[:, None])
        of_column += ds
        small = ds.to(key.dtype)
        total += product(small, key, DOT)
        if HAS_SLICES or NR > 1:
            # a product with one-hot positions adds what belongs to one row or slice
            one = (lines % R)[:, None] == tl.arange(0, BR)[None, :]
            of_row += product(small, one.to(tl.float32).to(key.dtype), DOT)
            if HAS_SLICES:
                one = (lines // R)[:, None] == tl.arange(0, BP)[None, :]
                of_slices += product(small, one.to(tl.float32).to(key.dtype), DOT)
        else:
            each = tl.sum(ds, axis=1).to(grad_row.dtype.element_ty)
            tl.store(grad_row + own * R + line, each, mask=is_row)
    _put(grad_q, total * scale, head, rows, is_row, T, E, BE)
    folded = tl.sum(tl.reshape(of_column, (BM, NR, BS)), axis=1)
    _put(grad_column, folded, head, rows, is_row, T, S, BS)
    if HAS_SLICES or NR > 1:
        _put(grad_row, of_row, head, rows, is_row, T, R, BR)
    if HAS_SLICES:
        _put(grad_slices, of_slices, head, rows, is_row, T, P, BP)


@triton.jit
def _backward_key(
    q, k, v, slices, row, column, grad, lse, delta, grad_k, grad_v,
    T, E, P, R, S, BLOCKS, scale,
    HAS_SLICES: tl.constexpr, NR: tl.constexpr, BS: tl.constexpr, BM: tl.constexpr,
    BE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    head = (tl.program_id(0) // BLOCKS).to(tl.int64)
    line = (tl.program_id(0) % BLOCKS) * NR
    lines, columns, cols, is_key = _keys(line, P, R, S, NR, BS)
    key = _tile(k, head, cols, is_key, T, E, BE)
    value = _tile(v, head, cols, is_key, T, E, BE)
    of_k, of_v = tl.zeros((NR * BS, BE), tl.float32), tl.zeros((NR * BS, BE), tl.float32)
    for start in range(0, T, BM):
        rows = start + tl.arange(0, BM)
        is_row = rows < T
        query = _tile(q, head, rows, is_row, T, E, BE)
        above = _tile(grad, head, rows, is_row, T, E, BE)
        bias = _column_bias(column, head, rows, is_row, columns, T, S)
        s = _scores(
            query, key, bias, slices, row, head, rows, is_row, line, lines, is_key, T, P, R,
            scale, HAS_SLICES, NR, DOT,
        )  # fmt: skip
        row_lse = tl.load(lse + head * T + rows, mask=is_row, other=0.0)
        row_delta = tl.load(delta + head * T + rows, mask=is_row, other=0.0)
        p = tl.where(is_row[:, None], tl.exp(s - row_lse[:, None]), 0.0)
        of_v += product(tl.trans(p.to(above.dtype)), above, DOT)
        ds = p * (product(above, tl.trans(value), DOT) - row_delta[:, None])
        of_k += product(tl.trans(ds.to(query.dtype)), query, DOT)
    _put(grad_k, of_k * scale, head, cols, is_key, T, E, BE)
    _put(grad_v, of_v, head, cols, is_key, T, E, BE)


@torch.library.custom_op("segkit::grid_attention", mutates_args=())
def grid_attention(
    q: Tensor, k: Tensor, v: Tensor, slices: Tensor, row: Tensor, column: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp for `q`, `k`, `v` [heads tokens e] and biases [heads tokens axis].

    `slices` is empty (axis 0) on a plane.
    """
    given = contiguous((q, k, v, slices, row, column))
    heads, tokens, _ = q.shape
    out, lse = fresh(q.shape, q), fresh((heads, tokens), q, torch.float32)
    sizes, options = _plan(given)
    tiles = triton.cdiv(tokens, options["BM"])
    launch(_forward, (heads * tiles,), *given, out, lse, *sizes, tiles, scale, **options)
    return out, lse


@grid_attention.register_fake
def _(q, k, v, slices, row, column, scale):
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("segkit::grid_attention_backward", mutates_args=())
def grid_attention_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slices: Tensor,
    row: Tensor,
    column: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the three biases."""
    grad, out, *given = contiguous((grad, out, q, k, v, slices, row, column))
    heads, tokens, _ = q.shape
    delta = (grad.float() * out.float()).sum(dim=-1)
    found = [fresh(like.shape, like) for like in given]
    sizes, options = _plan(given, is_backward=True)
    tiles = triton.cdiv(tokens, options["BM"])
    lines = sizes[2] * sizes[3]
    of_axes = {"BP": power_of_two(sizes[2], 16, 256), "BR": power_of_two(sizes[3], 16, 256)}
    launch(
        _backward_query, (heads * tiles,), *given, grad, lse, delta, found[0], *found[3:],
        *sizes, tiles, scale, **options, **of_axes,
    )  # fmt: skip
    blocks = triton.cdiv(lines, options["NR"])
    launch(
        _backward_key, (heads * blocks,), *given, grad, lse, delta, found[1], found[2],
        *sizes, blocks, scale, **options,
    )  # fmt: skip
    return found[0], found[1], found[2], found[3], found[4], found[5]


@grid_attention_backward.register_fake
def _(grad, out, lse, q, k, v, slices, row, column, scale):
    return tuple(like.new_empty(like.shape) for like in (q, k, v, slices, row, column))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*output, *inputs[:6])
    ctx.scale = inputs[6]
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx, grad, _):
    return (*grid_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None)


grid_attention.register_autograd(_gradients, setup_context=_save)


def _plan(
    given: list[Tensor], *, is_backward: bool = False
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Sizes and options of a launch; blocks shrink with the width of a head and in float32.

    32 keys are what windows take without spilling registers on sm_80; in float32, where a product
    is three of tf32, the blocks of bfloat16 spill up to 10 KB a thread (`tools.compile_kernels`).
    """
    q, _, _, slices, row, column = given
    tokens, width = q.shape[1:]
    grid = (max(slices.shape[2], 1), row.shape[2], column.shape[2])
    if math.prod(grid) != tokens:
        raise ValueError(f"the grid {grid} does not hold {tokens} tokens")
    block_s, block_e = power_of_two(grid[2], 1, 128), power_of_two(width, 16, 128)
    lines = max(1, 32 // block_s)
    block_m = 32 if q.element_size() > 2 else (64 if block_e > 64 else 128)
    if is_backward:
        block_m //= 2
    options: dict[str, Any] = {
        "HAS_SLICES": slices.shape[2] > 0, "NR": lines, "BS": block_s,
        "BM": power_of_two(tokens, 16, block_m), "BE": block_e,
        "DOT": dot_mode(q.dtype, q.device), "warps": 8,
    }  # fmt: skip
    return (tokens, width, *grid), options
