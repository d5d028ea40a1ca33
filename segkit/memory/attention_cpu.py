"""Memory attention without gradient on a CPU: object by object, in blocks that stay in the cache.

The same result as the module's own forward, up to rounding. What is saved: values of the memory are
summed before they are projected (`narrow_sums`), and both projections behind them are one; channels
that turn together are not neighbours but halves; nothing is padded to the longest memory; the first
self-attention is computed once per image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from segkit.kernels.narrow_attention import narrow_sums

if TYPE_CHECKING:
    from segkit.memory.attention import MemoryAttentionLayer, Recall

Cells = Float[Tensor, "cells dim"]
Turns = tuple[Float[Tensor, "cells half"], Float[Tensor, "cells half"]]
Linear = tuple[Float[Tensor, "_ _"], Float[Tensor, " _"]]


@dataclass(frozen=True, slots=True)
class _Folded:
    """Projections of a layer: those that are turned give even channels first, then odd ones."""

    around: Linear  # query, key and value of the self-attention
    query: Linear
    key: Linear
    out: Linear  # of sums over the memory: value and output projection

    @classmethod
    def of(cls, layer: MemoryAttentionLayer) -> _Folded:
        """Fold the weights, which costs little beside one use of them."""
        own, back = layer.self_attn, layer.cross_attn_image
        parts = (_halves(own.q_proj), _halves(own.k_proj), (own.v_proj.weight, own.v_proj.bias))
        weights, biases = zip(*parts, strict=True)
        out = back.out_proj
        return cls(
            (torch.cat(weights), torch.cat(biases)),
            _halves(back.q_proj),
            _halves(back.k_proj),
            (out.weight @ back.v_proj.weight, F.linear(back.v_proj.bias, out.weight, out.bias)),
        )


def can_run(x: Tensor, *, is_training: bool) -> bool:
    """Whether this form serves: float32 on a CPU, no gradient, no autocast, nothing traced."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not (is_training or torch.is_grad_enabled() or torch.compiler.is_compiling())
    )


def attend_on_cpu(
    layers: Iterable[Any],
    images: Float[Tensor, "images cells dim"],
    recall: Recall,
    image_index: Int[Tensor, " objects"],
    turns: Turns,
) -> Float[Tensor, "objects cells dim"]:
    """All layers on `images` with their position code; the norm behind them is not applied."""
    sources, keyed, counts = _unpadded(recall, len(turns[0]))
    where = image_index.tolist()
    found: list[Cells] = []
    for index, layer in enumerate(layers):
        folded = _Folded.of(layer)
        if index == 0:
            seen = {
                image: _look_around(layer, folded, images[image], turns) for image in set(where)
            }
            looks = [seen[image] for image in where]
        else:
            looks = [_look_around(layer, folded, x, turns) for x in found]
        found = []
        for (x, query), source, keys, count in zip(looks, sources, keyed, counts, strict=True):
            key = F.linear(keys, *folded.key)
            for map_ in key[: count * len(turns[0])].split(len(turns[0])):
                _turn(map_, turns)
            x = x + F.linear(narrow_sums(query, key, source), *folded.out)
            hidden = F.linear(layer.norm3(x), layer.linear1.weight, layer.linear1.bias)
            found.append(x.add_(layer.linear2(hidden.relu_())))
    return torch.stack(found)


def _look_around(
    layer: MemoryAttentionLayer, folded: _Folded, x: Cells, turns: Turns
) -> tuple[Cells, Cells]:
    """Self-attention; returns the cells and their turned questions to the memory."""
    query, key, value = F.linear(layer.norm1(x), *folded.around).chunk(3, dim=1)
    query, key = _turn(query, turns)[None, None], _turn(key, turns)[None, None]
    seen = F.scaled_dot_product_attention(query, key, value[None, None])[0, 0]
    x = x + layer.self_attn.out_proj(seen)
    return x, _turn(F.linear(layer.norm2(x), *folded.query), turns)


def _turn(x: Cells, turns: Turns) -> Cells:
    """Turn halves of channels as pairs, in place."""
    cos, sin = turns
    even, odd = x.chunk(2, dim=1)
    kept = even * sin
    even.mul_(cos).addcmul_(odd, sin, value=-1)
    odd.mul_(cos).add_(kept)
    return x


def _halves(layer: nn.Linear) -> Linear:
    """Order the outputs of a projection: even ones, then odd ones. Products do not notice."""
    return (
        torch.cat([layer.weight[0::2], layer.weight[1::2]]),
        torch.cat([layer.bias[0::2], layer.bias[1::2]]),
    )


def _unpadded(
    recall: Recall, cells: int
) -> tuple[list[Float[Tensor, "_ memory"]], list[Float[Tensor, "_ memory"]], list[int]]:
    """Tokens, tokens with their codes, and the number of maps of each object."""
    masks: list[Bool[Tensor, " tokens"] | None] = (
        [None] * len(recall.tokens) if recall.mask is None else list(recall.mask)
    )
    sources = [
        one if mask is None else one[mask] for one, mask in zip(recall.tokens, masks, strict=True)
    ]
    codes = [
        one if mask is None else one[mask] for one, mask in zip(recall.codes, masks, strict=True)
    ]
    counts = [
        recall.count if mask is None else int(mask[: recall.count * cells].sum()) // cells
        for mask in masks
    ]
    return sources, [a + b for a, b in zip(sources, codes, strict=True)], counts
