"""Learned prompts that look at tokens inside a bottleneck, forward and backward.

    z = x Wd + bd;  h = act(z);  o = softmax(scale P h') h;  s = softmax(scale h o') o
    out = x + gate (s Wu + bu)

The first softmax runs over all tokens: tiles leave partial answers, a second kernel combines them.
x is read once per pass over the tokens, two forward and two backward; z, as narrow as the
bottleneck, is all that is kept beside it. Nothing is added atomically.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import (
    activate,
    activate_slope,
    contiguous,
    dot_mode,
    fresh,
    launch,
    power_of_two,
    product,
)

_ACT = tl.constexpr(3)  # quick GELU
_COMBINED = 16_384  # numbers of partial answers in flight


@triton.jit
def _block(x, rows, is_row, cols, C):
    inside = is_row[:, None] & (cols < C)[None, :]
    return tl.load(x + rows.to(tl.int64)[:, None] * C + cols[None, :], mask=inside, other=0.0)


@triton.jit
def _store(x, value, rows, is_row, cols, C):
    inside = is_row[:, None] & (cols < C)[None, :]
    place = rows.to(tl.int64)[:, None] * C + cols[None, :]
    tl.store(x + place, value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _mixed(h, answers, Q, scale, BQ: tl.constexpr, DOT: tl.constexpr):
    """Weights of the answers for each token, and their sum."""
    scores = product(h, tl.trans(answers), DOT) * scale
    scores = tl.where((tl.arange(0, BQ) < Q)[None, :], scores, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    weights /= tl.sum(weights, axis=1)[:, None]
    return weights, product(weights.to(h.dtype), answers, DOT)


@triton.jit
def _look(
    x, down, down_bias, prompts, z, top, total, found, T, C, R, Q, TILES, scale,
    BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BQ: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """The narrow features of a tile, and what the prompts see in it."""
    n, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    local = tile * BT + tl.arange(0, BT)
    is_row, rows = local < T, n.to(tl.int64) * T + local
    r, q = tl.arange(0, BR), tl.arange(0, BQ)
    sums = tl.zeros((BT, BR), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        w = tl.load(
            down + r[None, :] * C + c[:, None], mask=(r < R)[None, :] & (c < C)[:, None], other=0.0
        )
        sums += product(_block(x, rows, is_row, c, C).to(w.dtype), w, DOT)
    sums += tl.load(down_bias + r, mask=r < R, other=0.0).to(tl.float32)[None, :]
    narrow = sums.to(z.dtype.element_ty)
    _store(z, narrow, rows, is_row, r, R)
    h = activate(narrow.to(tl.float32), _ACT).to(z.dtype.element_ty)
    asked = _block(prompts, q, q < Q, r, R)
    scores = product(asked, tl.trans(h), DOT) * scale
    scores = tl.where(is_row[None, :], scores, -float("inf"))
    highest = tl.max(scores, axis=1)
    p = tl.exp(scores - highest[:, None])
    at = tl.program_id(0).to(tl.int64) * Q
    tl.store(top + at + q, highest, mask=q < Q)
    tl.store(total + at + q, tl.sum(p, axis=1), mask=q < Q)
    _store(found, product(p.to(h.dtype), h, DOT), at + q, q < Q, r, R)


@triton.jit
def _combine(
    top, total, found, answers, lse, R, Q, TILES,
    GROUP: tl.constexpr, BR: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """Answers of the prompts to a whole map from those to its tiles."""
    n = tl.program_id(0).to(tl.int64)
    r, q = tl.arange(0, BR), tl.arange(0, BQ)
    highest, sums = tl.full((BQ,), -float("inf"), tl.float32), tl.zeros((BQ,), tl.float32)
    answer = tl.zeros((BQ, BR), tl.float32)
    for start in range(0, TILES, GROUP):
        tile = start + tl.arange(0, GROUP)
        at = (n * TILES + tile)[:, None] * Q + q[None, :]
        inside = (tile < TILES)[:, None] & (q < Q)[None, :]
        tops = tl.load(top + at, mask=inside, other=-float("inf"))
        higher = tl.maximum(highest, tl.max(tops, axis=0))
        # prompts that do not exist stay at -inf, whose difference is not a number
        safe = tl.where(q < Q, higher, 0.0)
        share, shrink = tl.exp(tops - safe[None, :]), tl.exp(highest - safe)
        sums = sums * shrink + tl.sum(share * tl.load(total + at, mask=inside, other=0.0), axis=0)
        parts = tl.load(
            found + at[:, :, None] * R + r[None, None, :],
            mask=inside[:, :, None] & (r < R)[None, None, :], other=0.0,
        )  # fmt: skip
        answer = answer * shrink[:, None] + tl.sum(share[:, :, None] * parts, axis=0)
        highest = higher
    sums = tl.where(q < Q, sums, 1.0)
    _store(answers, answer / sums[:, None], n * Q + q, q < Q, r, R)
    tl.store(lse + n * Q + q, highest + tl.log(sums), mask=q < Q)


@triton.jit
def _tell(
    x, z, answers, up, up_bias, gate, out, T, C, R, Q, TILES, scale,
    BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BQ: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Tokens of a tile with what the answers tell them."""
    n, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    local = tile * BT + tl.arange(0, BT)
    is_row, rows = local < T, n.to(tl.int64) * T + local
    r, q = tl.arange(0, BR), tl.arange(0, BQ)
    h = activate(_block(z, rows, is_row, r, R).to(tl.float32), _ACT).to(z.dtype.element_ty)
    answer = _block(answers, n * Q + q, q < Q, r, R).to(h.dtype)
    _, told = _mixed(h, answer, Q, scale, BQ, DOT)
    told = told.to(h.dtype)
    opened = tl.load(gate).to(tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        w = tl.load(
            up + c[None, :] * R + r[:, None], mask=(c < C)[None, :] & (r < R)[:, None], other=0.0
        )
        add = product(told, w, DOT)
        add += tl.load(up_bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
        kept = _block(x, rows, is_row, c, C).to(tl.float32)
        _store(out, kept + opened * add, rows, is_row, c, C)


@triton.jit
def _backward_tell(
    grad, z, answers, up, gate, told, grad_h, grad_answers, grad_gate, T, C, R, Q, TILES, scale,
    BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BQ: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """From the output to the answers, and to the tokens as far as they asked."""
    n, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    local = tile * BT + tl.arange(0, BT)
    is_row, rows = local < T, n.to(tl.int64) * T + local
    r, q = tl.arange(0, BR), tl.arange(0, BQ)
    h = activate(_block(z, rows, is_row, r, R).to(tl.float32), _ACT).to(z.dtype.element_ty)
    answer = _block(answers, n * Q + q, q < Q, r, R).to(h.dtype)
    weights, mixed = _mixed(h, answer, Q, scale, BQ, DOT)
    _store(told, mixed, rows, is_row, r, R)
    above = tl.zeros((BT, BR), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        w = _block(up, c, c < C, r, R)
        above += product(_block(grad, rows, is_row, c, C).to(w.dtype), w, DOT)
    at = tl.program_id(0).to(tl.int64)
    tl.store(grad_gate + at, tl.sum(tl.sum(above * mixed, axis=1), axis=0))
    above *= tl.load(gate).to(tl.float32)
    small = above.to(h.dtype)
    slope = product(small, tl.trans(answer), DOT)
    slope = weights * (slope - tl.sum(weights * slope, axis=1)[:, None]) * scale
    _store(grad_h, product(slope.to(h.dtype), answer, DOT), rows, is_row, r, R)
    # rows beyond the last token have no gradient, but their weights are not zero
    weights = tl.where(is_row[:, None], weights, 0.0).to(h.dtype)
    part = product(tl.trans(weights), small, DOT) + product(tl.trans(slope.to(h.dtype)), h, DOT)
    _store(grad_answers, part, at * Q + q, q < Q, r, R)


@triton.jit
def _backward_look(
    grad, z, prompts, down, lse, grad_h, grad_answers, delta, grad_z, grad_prompts, out,
    T, C, R, Q, TILES, scale,
    BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, BQ: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """From the answers to prompts and narrow features, and on to the tokens."""
    n, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    local = tile * BT + tl.arange(0, BT)
    is_row, rows = local < T, n.to(tl.int64) * T + local
    r, q = tl.arange(0, BR), tl.arange(0, BQ)
    narrow = _block(z, rows, is_row, r, R).to(tl.float32)
    h = activate(narrow, _ACT).to(z.dtype.element_ty)
    asked = _block(prompts, q, q < Q, r, R)
    above = _block(grad_answers, n * Q + q, q < Q, r, R).to(h.dtype)
    level = tl.load(lse + n * Q + q, mask=q < Q, other=0.0)
    shift = tl.load(delta + n * Q + q, mask=q < Q, other=0.0)
    looks = tl.exp(product(asked, tl.trans(h), DOT) * scale - level[:, None])
    looks = tl.where((q < Q)[:, None] & is_row[None, :], looks, 0.0)
    slope = looks * (product(above, tl.trans(h), DOT) - shift[:, None]) * scale
    small = slope.to(h.dtype)
    _store(grad_prompts, product(small, h, DOT), tl.program_id(0).to(tl.int64) * Q + q, q < Q, r, R)
    total = _block(grad_h, rows, is_row, r, R).to(tl.float32)
    total += product(tl.trans(looks.to(h.dtype)), above, DOT)
    total += product(tl.trans(small), asked, DOT)
    total = (total * activate_slope(narrow, _ACT)).to(h.dtype)
    _store(grad_z, total, rows, is_row, r, R)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        w = tl.load(
            down + r[:, None] * C + c[None, :], mask=(r < R)[:, None] & (c < C)[None, :], other=0.0
        )
        kept = _block(grad, rows, is_row, c, C).to(tl.float32)
        _store(out, kept + product(total, w, DOT), rows, is_row, c, C)


@torch.library.custom_op("segkit::prompted", mutates_args=())
def prompted(
    x: Tensor,
    down: Tensor,
    down_bias: Tensor,
    prompts: Tensor,
    up: Tensor,
    up_bias: Tensor,
    gate: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output for `x [n tokens c]`; with it z, the answers [n prompts r] and their log-sum-exp."""
    x, down, down_bias, prompts, up, up_bias = contiguous(
        (x, down, down_bias, prompts, up, up_bias)
    )
    sizes, options, programs = _plan(x, prompts)
    n, tokens, _ = x.shape
    count, width = prompts.shape
    z, out = fresh((n, tokens, width), prompts), fresh(x.shape, x)
    top, total = (fresh((programs, count), x, torch.float32) for _ in range(2))
    found = fresh((programs, count, width), x, torch.float32)
    answers = fresh((n, count, width), x, torch.float32)
    lse = fresh((n, count), x, torch.float32)
    launch(_look, (programs,), x, down, down_bias, prompts, z, top, total, found, *sizes, **options)
    launch(
        _combine, (n,), top, total, found, answers, lse, width, count, sizes[4],
        GROUP=min(16, _COMBINED // (options["BR"] * options["BQ"])),
        BR=options["BR"], BQ=options["BQ"], warps=8,
    )  # fmt: skip
    launch(_tell, (programs,), x, z, answers, up, up_bias, gate, out, *sizes, **options)
    return out, z, answers, lse


@prompted.register_fake
def _(x, down, down_bias, prompts, up, up_bias, gate):
    (n, tokens, _), (count, width) = x.shape, prompts.shape
    return (
        x.new_empty(x.shape),
        prompts.new_empty((n, tokens, width)),
        x.new_empty((n, count, width), dtype=torch.float32),
        x.new_empty((n, count), dtype=torch.float32),
    )


@torch.library.custom_op("segkit::prompted_backward", mutates_args=())
def prompted_backward(
    grad: Tensor,
    x: Tensor,
    z: Tensor,
    answers: Tensor,
    lse: Tensor,
    down: Tensor,
    prompts: Tensor,
    up: Tensor,
    up_bias: Tensor,
    gate: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, down, its bias, the prompts, up, its bias and the gate."""
    grad, x, down, prompts, up = contiguous((grad, x, down, prompts, up))
    sizes, options, programs = _plan(x, prompts)
    count, width = prompts.shape
    told, grad_z, out = fresh(z.shape, z), fresh(z.shape, z), fresh(x.shape, x)
    grad_h = fresh(z.shape, x, torch.float32)
    of_gate = fresh((programs,), x, torch.float32)
    parts, of_prompts = (fresh((programs, count, width), x, torch.float32) for _ in range(2))
    launch(
        _backward_tell, (programs,), grad, z, answers, up, gate, told, grad_h, parts, of_gate,
        *sizes, **options,
    )  # fmt: skip
    grad_answers = parts.unflatten(0, (len(x), -1)).sum(dim=1)
    delta = (grad_answers * answers).sum(dim=-1)
    launch(
        _backward_look, (programs,), grad, z, prompts, down, lse, grad_h, grad_answers, delta,
        grad_z, of_prompts, out, *sizes, **options,
    )  # fmt: skip
    rows = grad.flatten(0, 1)
    sums = rows.sum(dim=0, dtype=torch.float32)
    flat_z, opened = grad_z.flatten(0, 1), gate.float()
    return (
        out,
        flat_z.t() @ x.flatten(0, 1).to(z.dtype),
        flat_z.sum(dim=0),
        of_prompts.sum(dim=0).to(prompts.dtype),
        ((rows.to(z.dtype).t() @ told.flatten(0, 1)).float() * opened).to(up.dtype),
        (sums * opened).to(up_bias.dtype),
        (of_gate.sum() + sums @ up_bias.float()).view(gate.shape).to(gate.dtype),
    )


@prompted_backward.register_fake
def _(grad, x, z, answers, lse, down, prompts, up, up_bias, gate):
    found = (x, down, down.new_empty(len(down)), prompts, up, up_bias, gate)
    return tuple(like.new_empty(like.shape) for like in found)


def _save(ctx, inputs, output) -> None:
    x, down, _, prompts, up, up_bias, gate = inputs
    ctx.save_for_backward(x, *output[1:], down, prompts, up, up_bias, gate)
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx, grad, *_):
    return prompted_backward(grad, *ctx.saved_tensors)


prompted.register_autograd(_gradients, setup_context=_save)


def _plan(x: Tensor, prompts: Tensor) -> tuple[tuple[float, ...], dict[str, Any], int]:
    n, tokens, dim = x.shape
    count, width = prompts.shape
    is_wide = x.element_size() > 2
    block = power_of_two(tokens, 16, 64)
    tiles = triton.cdiv(tokens, block)
    options: dict[str, Any] = {
        "BT": block, "BC": power_of_two(dim, 16, 32 if is_wide else 64),
        "BR": power_of_two(width, 16, 64), "BQ": power_of_two(count, 16, 64),
        "DOT": dot_mode(prompts.dtype, x.device),
    }  # fmt: skip
    return (tokens, dim, width, count, tiles, width**-0.5), options, n * tiles
