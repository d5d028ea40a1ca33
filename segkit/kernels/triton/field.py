"""First layer of a continuous field: sampling of maps and a linear layer in one pass.

    out[row] = act(W [cells at the point, positions at the point, dense[row]] + b)

Row r reads object r // points at point r % points, or, with `owner`, object owner[r] at point r.
Samples are blended in registers on their way to the product and never stored. The backward pass
keeps the inputs alone and samples again; gradients of maps are added atomically.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from segkit.kernels.triton.launch import (
    ACTIVATIONS,
    activate,
    contiguous,
    dot_mode,
    fresh,
    launch,
    power_of_two,
    product,
)
from segkit.kernels.triton.linear import linear


@triton.jit
def _place(points, row, is_row, axis, size, AXES: tl.constexpr):
    """Cell before a point along an axis, and the share of the one after it."""
    at = tl.load(points + row * AXES + axis, mask=is_row, other=0.0)
    at = ((at + 1.0) * size - 1.0) * 0.5
    at = tl.minimum(tl.maximum(at, 0.0), size - 1.0)
    low = tl.floor(at)
    return low.to(tl.int32), at - low


@triton.jit
def _corner(points, row, is_row, corner, D, H, W, AXES: tl.constexpr):
    """Cell at one corner around each point, and its weight."""
    y, of_y = _place(points, row, is_row, AXES - 2, H, AXES)
    x, of_x = _place(points, row, is_row, AXES - 1, W, AXES)
    down, right = corner // 2 % 2, corner % 2
    y, x = tl.minimum(y + down, H - 1), tl.minimum(x + right, W - 1)
    weight = (down * of_y + (1 - down) * (1.0 - of_y)) * (right * of_x + (1 - right) * (1.0 - of_x))
    cell = y * W + x
    if AXES == 3:
        z, of_z = _place(points, row, is_row, 0, D, AXES)
        deep = corner // 4
        cell += tl.minimum(z + deep, D - 1) * (H * W)
        weight *= deep * of_z + (1 - deep) * (1.0 - of_z)
    return cell, weight


@triton.jit
def _sampled(
    maps, owner, points, row, is_row, c, D, H, W, C,
    AXES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Linear blend of the cells around each point."""
    total = tl.zeros((BT, BK), tl.float32)
    inside = is_row[:, None] & (c < C)[None, :]
    for corner in tl.static_range(1 << AXES):
        cell, weight = _corner(points, row, is_row, corner, D, H, W, AXES)
        place = (owner * (D * H * W) + cell)[:, None] * C + c[None, :]
        value = tl.load(maps + place, mask=inside, other=0.0).to(tl.float32)
        total += weight[:, None] * value
    return total


@triton.jit
def _rows(first, owners, R, P, HAS_OWNER: tl.constexpr, BT: tl.constexpr):
    """Flat rows of a tile with the object and the point that each reads."""
    flat = first * BT + tl.arange(0, BT)
    is_row = flat < R
    if HAS_OWNER:
        owner, point = tl.load(owners + flat, mask=is_row, other=0), flat
    else:
        owner, point = flat // P, flat % P
    return flat.to(tl.int64), is_row, owner.to(tl.int64), point.to(tl.int64)


@triton.jit
def _part(weight, cols, k, first, limit, N, K):
    """Columns `first` + k of the weight, transposed."""
    inside = (k < limit)[:, None] & (cols < N)[None, :]
    place = cols.to(tl.int64)[None, :] * K + (first + k)[:, None]
    return tl.load(weight + place, mask=inside, other=0.0)


@triton.jit
def _layer(
    cells, positions, points, dense, owners, weight, bias, out,
    R, P, N, D, H, W, C, D0, H0, W0, C0, CD,
    AXES: tl.constexpr, HAS_POSITIONS: tl.constexpr, HAS_OWNER: tl.constexpr, ACT: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    # neighbouring programs read the same cells
    blocks = tl.cdiv(N, BN)
    flat, is_row, owner, point = _rows(tl.program_id(0) // blocks, owners, R, P, HAS_OWNER, BT)
    cols = (tl.program_id(0) % blocks) * BN + tl.arange(0, BN)
    total, width = tl.zeros((BT, BN), tl.float32), C + C0 + CD
    for start in range(0, C, BK):
        k = start + tl.arange(0, BK)
        w = _part(weight, cols, k, 0, C, N, width)
        x = _sampled(cells, owner, points, point, is_row, k, D, H, W, C, AXES, BT, BK)
        total += product(x.to(w.dtype), w, DOT)
    if HAS_POSITIONS:
        for start in range(0, C0, BK):
            k = start + tl.arange(0, BK)
            w = _part(weight, cols, k, C, C0, N, width)
            # one map of positions serves all objects
            x = _sampled(
                positions, owner * 0, points, point, is_row, k, D0, H0, W0, C0, AXES, BT, BK
            )
            total += product(x.to(w.dtype), w, DOT)
    for start in range(0, CD, BK):
        k = start + tl.arange(0, BK)
        w = _part(weight, cols, k, C + C0, CD, N, width)
        inside = is_row[:, None] & (k < CD)[None, :]
        x = tl.load(dense + point[:, None] * CD + k[None, :], mask=inside, other=0.0)
        total += product(x.to(w.dtype), w, DOT)
    total += tl.load(bias + cols, mask=cols < N, other=0.0).to(tl.float32)[None, :]
    inside = is_row[:, None] & (cols < N)[None, :]
    value = activate(total, ACT).to(out.dtype.element_ty)
    tl.store(out + flat[:, None] * N + cols[None, :], value, mask=inside)


@triton.jit
def _gather(
    maps, points, owners, out, R, P, D, H, W, C,
    AXES: tl.constexpr, HAS_OWNER: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    flat, is_row, owner, point = _rows(tl.program_id(0), owners, R, P, HAS_OWNER, BT)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    x = _sampled(maps, owner, points, point, is_row, k, D, H, W, C, AXES, BT, BK)
    inside = is_row[:, None] & (k < C)[None, :]
    tl.store(out + flat[:, None] * C + k[None, :], x.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _scatter(
    grad, points, owners, out, R, P, D, H, W, C,
    AXES: tl.constexpr, HAS_OWNER: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    flat, is_row, owner, point = _rows(tl.program_id(0), owners, R, P, HAS_OWNER, BT)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    inside = is_row[:, None] & (k < C)[None, :]
    g = tl.load(grad + flat[:, None] * C + k[None, :], mask=inside, other=0.0).to(tl.float32)
    for corner in tl.static_range(1 << AXES):
        cell, weight = _corner(points, point, is_row, corner, D, H, W, AXES)
        place = (owner * (D * H * W) + cell)[:, None] * C + k[None, :]
        tl.atomic_add(out + place, weight[:, None] * g, mask=inside)


@torch.library.custom_op("segkit::field_layer", mutates_args=())
def field_layer(
    cells: Tensor,
    positions: Tensor | None,
    points: Tensor,
    dense: Tensor,
    owner: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    act: str,
) -> Tensor:
    """Rows [r out] for `cells [n *size c]`, `positions [1 *size c0]`, `points [p axes]` float32."""
    cells, points, dense, weight, bias = contiguous((cells, points, dense, weight, bias))
    positions = cells if positions is None else positions.contiguous()
    has_positions = weight.shape[1] > cells.shape[-1] + dense.shape[1]
    sizes = _size(cells) + (_size(positions) if has_positions else (1, 1, 1, 0))
    rows, outs = _count(cells, points, owner), len(weight)
    out = fresh((rows, outs), weight)
    is_wide = weight.element_size() > 2
    sides = power_of_two(rows, 16, 64 if is_wide else 128), power_of_two(outs, 16, 64)
    launch(
        _layer, (triton.cdiv(rows, sides[0]) * triton.cdiv(outs, sides[1]),),
        cells, positions, points, dense, points if owner is None else owner, weight, bias, out,
        rows, len(points), outs, *sizes, dense.shape[1],
        AXES=points.shape[1], HAS_POSITIONS=has_positions, HAS_OWNER=owner is not None,
        ACT=ACTIVATIONS[act], BT=sides[0], BN=sides[1], BK=32,
        DOT=dot_mode(weight.dtype, weight.device), warps=8,
    )  # fmt: skip
    return out


@field_layer.register_fake
def _(cells, positions, points, dense, owner, weight, bias, act):
    return weight.new_empty((_count(cells, points, owner), len(weight)))


@torch.library.custom_op("segkit::field_gather", mutates_args=())
def field_gather(maps: Tensor, points: Tensor, owner: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Values of `maps [n *size c]` at the points of each row."""
    maps, points = contiguous((maps, points))
    out = fresh((_count(maps, points, owner), maps.shape[-1]), maps, dtype)
    _visit(_gather, maps, maps, points, owner, out)
    return out


@field_gather.register_fake
def _(maps, points, owner, dtype):
    return maps.new_empty((_count(maps, points, owner), maps.shape[-1]), dtype=dtype)


@torch.library.custom_op("segkit::field_scatter", mutates_args=())
def field_scatter(grad: Tensor, maps: Tensor, points: Tensor, owner: Tensor | None) -> Tensor:
    """Gradient of the maps that `field_gather` read, from that of its rows."""
    grad, points = contiguous((grad, points))
    out = torch.zeros(maps.shape, dtype=torch.float32, device=maps.device)
    _visit(_scatter, grad, maps, points, owner, out)
    return out.to(maps.dtype, copy=True)


@field_scatter.register_fake
def _(grad, maps, points, owner):
    return maps.new_empty(maps.shape)


@torch.library.custom_op("segkit::linear", mutates_args=())
def dense_layer(x: Tensor, weight: Tensor, bias: Tensor, act: str) -> Tensor:
    """Return act(x w^T + b); for inference, no gradient is defined."""
    x, weight, bias = contiguous((x, weight, bias))
    return linear(x, weight, bias, act)


@dense_layer.register_fake
def _(x, weight, bias, act):
    return weight.new_empty((len(x), len(weight)))


def _save(ctx, inputs, output) -> None:
    cells, positions, points, dense, owner, weight, _, act = inputs
    if act != "none":
        raise ValueError(f"gradients need act='none', got {act!r}")
    ctx.save_for_backward(cells, positions, points, dense, owner, weight)


def _gradients(ctx, grad):
    cells, positions, points, dense, owner, weight = ctx.saved_tensors
    for_cells, for_positions, _, for_dense, _, for_weight, *_ = ctx.needs_input_grad
    kind, own = weight.dtype, cells.shape[-1]
    held = weight.shape[1] - dense.shape[1]
    # points that all objects share, and what is read there, meet the sum over objects
    common = grad if owner is not None else grad.view(len(cells), len(points), -1).sum(dim=0)
    of_cells = of_positions = of_dense = of_weight = None
    if for_cells:
        of_cells = field_scatter(grad @ weight[:, :own], cells, points, owner)
    if for_positions:
        of_positions = field_scatter(common @ weight[:, own:held], positions, points, None)
    if for_dense:
        of_dense = (common @ weight[:, held:]).to(dense.dtype)
    if for_weight:
        parts = [grad.t() @ field_gather(cells, points, owner, kind)]
        if positions is not None:
            parts.append(common.t() @ field_gather(positions, points, None, kind))
        of_weight = torch.cat([*parts, common.t() @ dense.to(kind)], dim=1)
    return of_cells, of_positions, None, of_dense, None, of_weight, grad.sum(dim=0), None


field_layer.register_autograd(_gradients, setup_context=_save)


def _visit(
    kernel, source: Tensor, maps: Tensor, points: Tensor, owner: Tensor | None, out: Tensor
) -> None:
    """Run a kernel over all rows and channels."""
    rows, channels = _count(maps, points, owner), maps.shape[-1]
    sides = power_of_two(rows, 16, 64), power_of_two(channels, 16, 32)
    launch(
        kernel, (triton.cdiv(rows, sides[0]), triton.cdiv(channels, sides[1])),
        source, points, points if owner is None else owner, out,
        rows, len(points), *_size(maps),
        AXES=points.shape[1], HAS_OWNER=owner is not None, BT=sides[0], BK=sides[1],
    )  # fmt: skip


def _count(maps: Tensor, points: Tensor, owner: Tensor | None) -> int:
    return len(points) * len(maps) if owner is None else len(owner)


def _size(maps: Tensor) -> tuple[int, int, int, int]:
    """Depth, height, width and channels; the depth of a plane is 1."""
    *deep, height, width, channels = maps.shape[1:]
    return (deep[0] if deep else 1, height, width, channels)
