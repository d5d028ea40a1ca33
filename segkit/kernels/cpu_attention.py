"""Attention with decomposed relative positions on a CPU, without gradients: scores in small tiles.

`segkit.kernels.attention.widened` buys its gradients with wider vectors, three times as many
multiplications at a grid of 64 x 64. Here the bias is added to a tile of scores that stays in the
cache of a core, so no tokens x tokens matrix is ever held either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float

_TILE = 2**20
"""Scores of one tile."""


def tiled(
    q: Float[Tensor, "n heads tokens c"],
    k: Float[Tensor, "n heads tokens c"],
    v: Float[Tensor, "n heads tokens c"],
    biases: Sequence[Float[Tensor, "n heads tokens side"]],
) -> Float[Tensor, "n heads tokens c"]:
    """Compute softmax(q k / sqrt(c) + sum of the biases, one per axis of the grid) v."""
    n, heads, tokens, _ = q.shape
    out = torch.empty_like(q)
    if (most := _TILE // (heads * tokens**2)) > 0:
        for start in range(0, n, most):  # several windows at a time
            some = slice(start, start + most)
            mask = _whole([bias[some] for bias in biases])
            out[some] = F.scaled_dot_product_attention(q[some], k[some], v[some], attn_mask=mask)
        return out
    step = max(1, _TILE // tokens)
    keys = k.transpose(2, 3) * k.shape[-1] ** -0.5
    for row in range(n):
        for head in range(heads):
            for start in range(0, tokens, step):
                tile = (row, head, slice(start, start + step))
                scores = _whole([bias[tile] for bias in biases])
                share = scores.addmm_(q[tile], keys[row, head]).softmax(dim=-1)
                out[tile] = share @ v[row, head]
    return out


def _whole(biases: Sequence[Float[Tensor, "*queries side"]]) -> Float[Tensor, "*queries keys"]:
    """Add the biases of all axes, the last one fastest."""
    first, *others = biases
    for bias in others:
        first = (first[..., :, None] + bias[..., None, :]).flatten(-2)
    return first
