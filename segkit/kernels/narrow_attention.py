"""Attention whose values are narrower than its keys, as those of SAM 2's memory are."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_QUERIES, _KEYS = 1024, 256  # a block of scores stays in the cache of a core


def narrow_sums(
    query: Float[Tensor, "queries dim"],
    key: Float[Tensor, "keys dim"],
    source: Float[Tensor, "keys narrow"],
) -> Float[Tensor, "queries narrow"]:
    """Sum `source` over the keys, weighted by attention, in blocks; without gradient.

    Weights of attention sum to one, so softmax(q k) (s W + b) = (softmax(q k) s) W + b: where
    values are a projection of something narrower, the sum over keys can run over that. The fused
    operator of PyTorch wants keys and values of equal width.

    Scores are taken relative to the largest of the first block of keys, which keeps all digits as
    long as no later one is larger by 127 powers of two; then the definition is computed.
    """
    out = torch.empty(len(query), source.shape[1], dtype=query.dtype)
    # a column of ones sums the weights
    counted = F.pad(source, (0, 1), value=1.0)
    blocks = list(zip(key.t().split(_KEYS, dim=1), counted.split(_KEYS), strict=True))
    for rows, into in zip(query.split(_QUERIES), out.split(_QUERIES), strict=True):
        total = _total(rows * (query.shape[1] ** -0.5 / math.log(2)), blocks)
        torch.div(total[:, :-1], total[:, -1:], out=into)
    return out if out.isfinite().all() else reference(query, key, source)


def reference(
    query: Float[Tensor, "queries dim"],
    key: Float[Tensor, "keys dim"],
    source: Float[Tensor, "keys narrow"],
) -> Float[Tensor, "queries narrow"]:
    """Definition of `narrow_sums`."""
    return (query @ key.t() * query.shape[1] ** -0.5).softmax(dim=1) @ source


def _total(
    query: Float[Tensor, "queries dim"],
    blocks: list[tuple[Float[Tensor, "dim _"], Float[Tensor, "_ counted"]]],
) -> Float[Tensor, "queries counted"]:
    """Sums over blocks of keys of what they count, weighted by powers of two."""
    total = query.new_zeros(len(query), blocks[0][1].shape[1])
    room = query.new_empty(len(query) * _KEYS)
    top: Tensor | None = None
    for key, counted in blocks:
        score = room[: len(query) * len(counted)].view(len(query), len(counted))
        torch.mm(query, key, out=score)
        if top is None:
            top = score.amax(dim=1, keepdim=True)
        total.addmm_(score.sub_(top).exp2_(), counted)
    return total
