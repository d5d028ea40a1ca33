"""SAM's two-way transformer and upscaling, computed with fewer operations on the same weights.

The functions take upstream's modules and give their result up to rounding. What is saved: fused
attention, no copies into heads, position codes added once per layer, transposed convolutions as
matrix products on channel-last maps, and only finished masks are put in pixel order.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from segkit.typing import Maps

Rows = Float[Tensor, "objects _ _"]  # any count, any width


def two_way(
    transformer: TwoWayTransformer,
    image: Float[Tensor, "objects dim rows cols"],
    positions: Float[Tensor, "1 dim rows cols"],
    tokens: Float[Tensor, "objects tokens dim"],
) -> tuple[Float[Tensor, "objects tokens dim"], Float[Tensor, "objects cells dim"]]:
    """Return the tokens and the cells of the image after both have looked at each other."""
    cells = image.flatten(2).transpose(1, 2).contiguous()
    codes = positions.flatten(2).transpose(1, 2)
    queries, placed = tokens, cells + codes
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = _attend(layer.self_attn, queries, queries, queries)
        else:
            marked = queries + tokens
            queries = queries + _attend(layer.self_attn, marked, marked, queries)
        queries = layer.norm1(queries)
        look = _attend(layer.cross_attn_token_to_image, queries + tokens, placed, cells)
        queries = layer.norm2(queries + look)
        queries = layer.norm3(queries + layer.mlp(queries))
        marked = queries + tokens
        answer = _attend(layer.cross_attn_image_to_token, placed, marked, queries)
        cells = layer.norm4(cells + answer)
        placed = cells + codes
    look = _attend(transformer.final_attn_token_to_image, queries + tokens, placed, cells)
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
    layers: list[Any] = list(upscaling)
    first, norm, act, second, last_act = layers
    rows, cols = size
    x = _times_four(first, cells)
    if finer is not None:
        x = x + finer[0]
    x = act(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = _times_four(second, x)  # [objects cells*16 channels]
    x = last_act(x if finer is None else x + finer[1])
    logits = x @ weights.transpose(1, 2)
    objects, _, masks = logits.shape
    # cells, then the 2 x 2 pixels of the first and of the second step
    logits = logits.view(objects, rows, cols, 2, 2, 2, 2, masks)
    return logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(objects, masks, 4 * rows, 4 * cols)


def in_cells(maps: Maps, steps: int) -> Rows:
    """Order the pixels of a map as `draw` does after so many steps: by cell, 2 x 2 by 2 x 2."""
    n, channels, height, width = maps.shape
    split, axes = (2,) * steps, range(steps)
    x = maps.reshape(n, channels, height >> steps, *split, width >> steps, *split)
    order = [0, 2, 3 + steps, *(axis for s in axes for axis in (3 + s, 4 + steps + s)), 1]
    return x.permute(order).reshape(n, height * width, channels)


def _times_four(layer: nn.ConvTranspose2d, x: Rows) -> Float[Tensor, "objects finer channels"]:
    """Apply a transposed convolution of kernel and stride 2: each cell becomes four."""
    kernel = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [2*2*channels dim]
    bias: Any = layer.bias
    x = F.linear(x, kernel, bias.repeat(4))
    return x.unflatten(2, (4, -1)).flatten(1, 2)


def _attend(attn: Attention, q: Rows, k: Rows, v: Rows) -> Rows:
    split = [
        layer(x).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        for layer, x in ((attn.q_proj, q), (attn.k_proj, k), (attn.v_proj, v))
    ]
    out = F.scaled_dot_product_attention(*split)
    return attn.out_proj(out.transpose(1, 2).flatten(2))
