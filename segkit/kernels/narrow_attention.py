"""Attention whose values are narrower than its keys, as those of SAM 2's memory are."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_QUERIES, _KEYS = 1024, 512  # a block of scores stays in the cache of a core


def narrow_attention(
    query: Float[Tensor, "n queries dim"],
    key: Float[Tensor, "n keys dim"],
    source: Float[Tensor, "n keys narrow"],
    value: tuple[Float[Tensor, "dim narrow"], Float[Tensor, " dim"]],
    *,
    mask: Bool[Tensor, "n keys"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "n queries dim"]:
    """Attend from `query` to `key`; values are `source` times a weight, plus a bias.

    Weights of attention sum to one, so softmax(q k) (s W + b) = (softmax(q k) s) W + b: the sum
    over keys can run over the narrow source. On a CPU, without gradient, it does, block by block;
    elsewhere the fused operator wants keys and values of equal width. `mask` is true where a key
    counts; each row needs one.
    """
    weight, bias = value
    if query.is_cuda or torch.is_grad_enabled() or dropout or not _is_worth(query, source):
        return reference(query, key, source, value, mask=mask, dropout=dropout)
    found = torch.stack(
        [
            _one(query[row], key[row], source[row], None if mask is None else mask[row])
            for row in range(len(query))
        ]
    )
    return F.linear(found, weight, bias)


def reference(
    query: Float[Tensor, "n queries dim"],
    key: Float[Tensor, "n keys dim"],
    source: Float[Tensor, "n keys narrow"],
    value: tuple[Float[Tensor, "dim narrow"], Float[Tensor, " dim"]],
    *,
    mask: Bool[Tensor, "n keys"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "n queries dim"]:
    """Definition of `narrow_attention`, and its path where gradients are needed."""
    found = F.scaled_dot_product_attention(
        query[:, None],
        key[:, None],
        F.linear(source, *value)[:, None],
        attn_mask=None if mask is None else mask[:, None, None],
        dropout_p=dropout,
    )
    return found[:, 0]


def _is_worth(query: Tensor, source: Tensor) -> bool:
    return source.shape[-1] < query.shape[-1] and query.shape[1] >= _QUERIES


def _one(
    query: Float[Tensor, "queries dim"],
    key: Float[Tensor, "keys dim"],
    source: Float[Tensor, "keys narrow"],
    mask: Bool[Tensor, " keys"] | None,
) -> Float[Tensor, "queries narrow"]:
    """Blockwise softmax with a running maximum (Milakov and Gimelshein, 2018, algorithm 3)."""
    if mask is not None:
        key, source = key[mask], source[mask]
    key = key.t()
    # a column of ones sums the weights
    counted = F.pad(source, (0, 1), value=1.0)
    out = torch.empty(len(query), source.shape[1], dtype=query.dtype, device=query.device)
    for start in range(0, len(query), _QUERIES):
        q = query[start : start + _QUERIES] * query.shape[1] ** -0.5
        top = q.new_full((len(q), 1), -torch.inf)
        total = q.new_zeros(len(q), counted.shape[1])
        for first in range(0, key.shape[1], _KEYS):
            score = q @ key[:, first : first + _KEYS]
            higher = torch.maximum(top, score.amax(dim=1, keepdim=True))
            score.sub_(higher).exp_()
            total.mul_((top - higher).exp_()).addmm_(score, counted[first : first + _KEYS])
            top = higher
        out[start : start + len(q)] = total[:, :-1] / total[:, -1:]
    return out
