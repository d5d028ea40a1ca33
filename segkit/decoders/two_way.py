"""SAM's two-way transformer and upscaling, computed with fewer operations on the same weights.

The functions take upstream's modules and give their result up to rounding. What is saved: fused
attention, no copies into heads, position codes added once per layer, transposed convolutions as
matrix products on channel-last maps, and only finished masks are put in pixel order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segkit.typing import Maps

if TYPE_CHECKING:  # importing it takes as long as torch
    from segment_anything.modeling import TwoWayTransformer
    from segment_anything.modeling.transformer import Attention

Rows = Float[Tensor, "objects _ _"]  # any count, any width
Cells = Float[Tensor, "images cells dim"]  # one image per object, or one for all
Known = tuple["ImageSide", "Added"]
_STRETCH, _DRAWN = 512, 256
"""Cells that are worked on together, and fewer where each becomes sixteen pixels."""


@dataclass(frozen=True, slots=True)
class ImageSide:
    """What the first layer makes of an image before it sees a prompt; see `image_side`."""

    cells: Cells
    placed: Cells
    key: Float[Tensor, "1 heads cells c"]
    value: Float[Tensor, "1 heads cells c"]
    query: Float[Tensor, "1 heads cells c"]


@dataclass(frozen=True, slots=True)
class Added:
    """What a dense prompt adds to the cells: the same to all, and few values times a weight."""

    shift: Float[Tensor, " dim"]
    few: tuple[Float[Tensor, "objects cells few"], Float[Tensor, "few dim"]] | None = None


def image_side(
    transformer: "TwoWayTransformer",
    image: Float[Tensor, "1 dim rows cols"],
    positions: Float[Tensor, "1 dim rows cols"],
) -> ImageSide:
    """Compute the share of `two_way` that all prompts on an image have in common."""
    cells = image.flatten(2).transpose(1, 2).contiguous()
    placed = cells + positions.flatten(2).transpose(1, 2)
    layer = transformer.layers[0]
    look, answer = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    key, value = _heads(look, look.k_proj(placed)), _heads(look, look.v_proj(cells))
    query = _heads(answer, answer.q_proj(placed))
    return ImageSide(cells, placed, key.contiguous(), value.contiguous(), query.contiguous())


def two_way(
    transformer: "TwoWayTransformer",
    image: Float[Tensor, "images dim rows cols"] | ImageSide,
    positions: Float[Tensor, "1 dim rows cols"],
    tokens: Float[Tensor, "objects tokens dim"],
    added: Added | None = None,
) -> tuple[Float[Tensor, "objects tokens dim"], Float[Tensor, "objects cells dim"]]:
    """Return the tokens and the cells of the image after both have looked at each other.

    `image` is one per object, or a single one that they share, or what is known of that one before
    `added` is added to it.
    """
    codes = positions.flatten(2).transpose(1, 2)
    spare: Cells | None = None
    known: Known | None = None
    if isinstance(image, ImageSide):
        known = image, added or Added(positions.new_zeros(positions.shape[1]))
        cells, placed = image.cells, image.placed
    else:
        # a copy, or memory that `with_dense` has just written: ours to change
        cells = image.flatten(2).transpose(1, 2).contiguous()
        spare = placed = cells + codes
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = _attend(layer.self_attn, queries, queries, queries)
        else:
            marked = queries + tokens
            queries = queries + _attend(layer.self_attn, marked, marked, queries)
        queries = layer.norm1(queries)
        look = _look(layer.cross_attn_token_to_image, queries + tokens, placed, cells, known)
        queries = layer.norm2(queries + look)
        queries = layer.norm3(queries + layer.mlp(queries))
        marked = queries + tokens
        attn = layer.cross_attn_image_to_token
        cells = _answered(attn, placed, marked, queries, cells, known)
        cells, placed = _settled(layer.norm4, cells, codes, spare)
        spare, known = placed, None
    look = _look(transformer.final_attn_token_to_image, queries + tokens, placed, cells)
    return transformer.norm_final_attn(queries + look), cells


def draw(
    upscaling: nn.Sequential,
    cells: Float[Tensor, "objects cells dim"],
    weights: Float[Tensor, "objects masks channels"],
    size: tuple[int, int],
    finer: tuple[Rows, Rows] | None = None,
) -> Float[Tensor, "objects masks height width"]:
    """Upscale the cells of an image of `size` (rows, columns) four times and draw the masks.

    `finer` are maps of twice and four times the size, `in_cells`, which are added on the way
    (SAM 2); those of a single image serve all objects.
    """
    rows, cols = size
    steps = _steps(upscaling)
    if cells.device.type == "cpu" and not torch.is_grad_enabled():
        # a stretch at a time: what lies between cells and logits stays in the cache of a core
        stretches = [
            _logits(
                steps,
                cells[:, start : start + _DRAWN],
                weights,
                None if finer is None else _stretch(finer, start),
            )
            for start in range(0, rows * cols, _DRAWN)
        ]
        logits = torch.cat(stretches, dim=1)
    else:
        logits = _logits(steps, cells, weights, finer)
    objects, _, masks = logits.shape
    # cells, then the 2 x 2 pixels of the first and of the second step
    logits = logits.view(objects, rows, cols, 2, 2, 2, 2, masks)
    return logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(objects, masks, 4 * rows, 4 * cols)


def _steps(upscaling: nn.Sequential) -> list[Any]:
    """Layers of an upscaling, its transposed convolutions as (kernel, bias) of a projection."""
    first, norm, act, second, last_act = upscaling
    return [_four_cells(first), norm, act, _four_cells(second), last_act]


def _four_cells(layer: Any) -> tuple[Tensor, Tensor]:
    """Transposed convolution of kernel and stride 2 as a projection: each cell becomes four."""
    kernel = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [2*2*channels dim]
    return kernel, layer.bias.repeat(4)


def _logits(
    steps: Sequence[Any],
    cells: Float[Tensor, "objects cells dim"],
    weights: Float[Tensor, "objects masks channels"],
    finer: tuple[Rows, Rows] | None,
) -> Float[Tensor, "objects pixels masks"]:
    first, norm, act, second, last_act = steps
    x = _times_four(first, cells)
    if finer is not None:
        x = x + finer[0]
    x = act(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = _times_four(second, x)  # [objects cells*16 channels]
    x = last_act(x if finer is None else x + finer[1])
    return x @ weights.transpose(1, 2)


def _stretch(finer: tuple[Rows, Rows], start: int) -> tuple[Rows, Rows]:
    middle, fine = finer
    stop = start + _DRAWN
    return middle[:, 4 * start : 4 * stop], fine[:, 16 * start : 16 * stop]


def in_cells(maps: Maps, steps: int) -> Rows:
    """Order the pixels of a map as `draw` does after so many steps: by cell, 2 x 2 by 2 x 2."""
    n, channels, height, width = maps.shape
    split, axes = (2,) * steps, range(steps)
    x = maps.reshape(n, channels, height >> steps, *split, width >> steps, *split)
    order = [0, 2, 3 + steps, *(axis for s in axes for axis in (3 + s, 4 + steps + s)), 1]
    return x.permute(order).reshape(n, height * width, channels)


def _times_four(
    projection: tuple[Tensor, Tensor], x: Rows
) -> Float[Tensor, "objects finer channels"]:
    return F.linear(x, *projection).unflatten(2, (4, -1)).flatten(1, 2)


def _look(
    attn: "Attention", tokens: Rows, placed: Cells, cells: Cells, known: Known | None = None
) -> Rows:
    """Attend from tokens to cells: keys are `placed` projected, values `cells` projected.

    q (K x) = (K' q) x, and weights sum to one, so the projections can be applied to the few tokens
    before, and to the few sums after. The bias of the keys shifts all scores of a query alike and
    drops out.
    """
    heads, query = attn.num_heads, _heads(attn, attn.q_proj(tokens))
    if known is not None:
        out = _looked(attn, query, *known)
    elif not _is_narrow(attn, tokens):
        return _attend(attn, tokens, placed, cells)
    else:
        wide = query * query.shape[-1] ** -0.5 @ attn.k_proj.weight.unflatten(0, (heads, -1))
        if len(cells) == 1:  # all objects in one product, and cells first, as it is fastest
            share = F.linear(placed[0], wide.flatten(0, 2)).softmax(dim=0).T
            sums = (share @ cells[0]).view_as(wide)
        else:
            share = (wide.flatten(1, 2) @ placed.transpose(1, 2)).softmax(dim=-1)
            sums = (share @ cells).view_as(wide)
        value = attn.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)
        out = sums @ value + attn.v_proj.bias.view(heads, 1, -1)
    return attn.out_proj(out.transpose(1, 2).flatten(2))


def _looked(
    attn: "Attention", query: Float[Tensor, "objects heads tokens c"], side: ImageSide, added: Added
) -> Float[Tensor, "objects heads tokens c"]:
    """Attend to the cells of `side`, with what is added to them.

    Its share of the keys and values is a product with the few values alone; the shift changes all
    scores of a query alike, and all sums.
    """
    project = attn.v_proj.weight.unflatten(0, (attn.num_heads, -1)).transpose(1, 2)
    shift = (added.shift @ project)[:, None]
    if added.few is None:
        key, value = _for_all(len(query), side.key, side.value)
        return F.scaled_dot_product_attention(query, key, value) + shift
    values, weight = added.few[0][:, None], added.few[1]
    query = query * query.shape[-1] ** -0.5
    through = (weight @ attn.k_proj.weight.T).unflatten(1, (attn.num_heads, -1))
    few = query @ through.permute(1, 2, 0)
    share = (query @ side.key.transpose(2, 3) + few @ values.transpose(2, 3)).softmax(dim=-1)
    return share @ side.value + share @ values @ (weight @ project) + shift


def _answered(
    attn: "Attention",
    placed: Cells,
    marked: Rows,
    tokens: Rows,
    cells: Cells,
    known: Known | None = None,
) -> Cells:
    """Add to the cells what they get from the tokens, without gradients perhaps in place.

    Queries are `placed` projected. The keys take over that projection, the values the one of the
    output. Weights sum to one in each head, so the bias of the output may ride on the values of one
    head.
    """
    if known is None and not _is_narrow(attn, tokens):
        return cells + _attend(attn, placed, marked, tokens)
    heads = attn.num_heads
    key, value = _heads(attn, attn.k_proj(marked)), _heads(attn, attn.v_proj(tokens))
    share = _shares(attn, key * key.shape[-1] ** -0.5, placed, known)
    spread = value @ attn.out_proj.weight.T.unflatten(0, (heads, -1))
    rest = attn.out_proj.bias if known is None else attn.out_proj.bias + known[1].shift
    spread = (spread + F.pad(rest[None], (0, 0, 0, heads - 1))[:, None]).flatten(1, 2)
    if known is not None and known[1].few is not None:
        # what is added to the cells, in the same product
        values, weight = known[1].few
        share = torch.cat([share, values], dim=2)
        spread = torch.cat([spread, weight.expand(len(spread), -1, -1)], dim=1)
    if known is None and len(cells) == len(share) and not torch.is_grad_enabled():
        if len(cells) == 1:
            return cells[0].addmm_(share[0], spread[0])[None]
        return cells.baddbmm_(share, spread)
    return torch.baddbmm(cells.expand(len(share), -1, -1), share, spread)


def _shares(
    attn: "Attention",
    key: Float[Tensor, "objects heads tokens c"],
    placed: Cells,
    known: Known | None,
) -> Float[Tensor, "objects cells heads_tokens"]:
    """Weights of the tokens in each head and cell; they sum to one over the tokens."""
    wide = key @ attn.q_proj.weight.unflatten(0, (attn.num_heads, -1))
    if known is not None:
        side, added = known
        scores = key @ side.query.transpose(2, 3) + (wide @ added.shift)[..., None]
        if added.few is not None:
            values, weight = added.few
            scores = scores + wide @ weight.T @ values[:, None].transpose(2, 3)
        return scores.softmax(dim=2).flatten(1, 2).transpose(1, 2)
    shift = key @ attn.q_proj.bias.view(attn.num_heads, -1, 1)
    if len(placed) == 1:
        scores = F.linear(placed[0], wide.flatten(0, 2), shift.flatten())
        return scores.unflatten(1, wide.shape[:3]).softmax(dim=-1).flatten(2).transpose(0, 1)
    scores = wide.flatten(1, 2) @ placed.transpose(1, 2)
    scores = scores.unflatten(1, wide.shape[1:3]) + shift
    return scores.softmax(dim=2).flatten(1, 2).transpose(1, 2)


def _is_narrow(attn: "Attention", tokens: Rows) -> bool:
    """Whether heads times tokens cost less than the inner width; launches cost more on a GPU.

    Autocast would round the sums that are kept from layer to layer. Where the layer is trained, the
    bias of its keys takes part: its gradient is zero, not missing.
    """
    on_cpu = tokens.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    is_trained = torch.is_grad_enabled() and attn.k_proj.weight.requires_grad
    return on_cpu and not is_trained and attn.num_heads * tokens.shape[1] < attn.internal_dim


def _settled(
    norm: nn.LayerNorm, cells: Cells, codes: Cells, spare: Cells | None
) -> tuple[Cells, Cells]:
    """Normalise fresh cells, and add the position codes.

    Without gradients both happen in place, a stretch at a time; the sum takes the place of `spare`,
    which nobody needs any more.
    """
    is_plain = cells.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if torch.is_grad_enabled() or not is_plain:
        cells = norm(cells)
        return cells, cells + codes
    if spare is None or spare.shape != cells.shape:
        spare = torch.empty_like(cells)
    step = max(1, _STRETCH // len(cells))
    for start in range(0, cells.shape[1], step):
        part, stop = cells[:, start : start + step], start + step
        part.copy_(norm(part))
        torch.add(part, codes[:, start:stop], out=spare[:, start:stop])
    return cells, spare


def _for_all(objects: int, *parts: Tensor) -> list[Tensor]:
    return [part.expand(objects, -1, -1, -1) for part in parts]


def _heads(attn: "Attention", x: Rows) -> Float[Tensor, "objects heads tokens c"]:
    return x.unflatten(2, (attn.num_heads, -1)).transpose(1, 2)


def _attend(attn: "Attention", q: Rows, k: Rows, v: Rows) -> Rows:
    projected = ((attn.q_proj, q), (attn.k_proj, k), (attn.v_proj, v))
    split = [_heads(attn, layer(x)) for layer, x in projected]
    query, key, value = _for_all(max(len(q), len(k)), *split)
    out = F.scaled_dot_product_attention(query, key, value)
    return attn.out_proj(out.transpose(1, 2).flatten(2))
