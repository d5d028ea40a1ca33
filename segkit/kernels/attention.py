"""Attention with decomposed relative positions in two or three dimensions: reference, dispatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.kernels.cpu_attention import tiled
from segkit.kernels.dispatch import Impl, relative_error, sample, shared_bytes, use_triton

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float

_SMALL = 16 * 1024
WIDEST, LONGEST = 128, 128
"""Largest width of a head, and last axis of a grid, that the fused form takes."""


def reference(
    q: Float[Tensor, "n heads tokens c"],
    k: Float[Tensor, "n heads tokens c"],
    v: Float[Tensor, "n heads tokens c"],
    tables: Sequence[Float[Tensor, "side side c"]],
) -> Float[Tensor, "n heads tokens c"]:
    """Definition, with the whole matrix of scores.

    softmax(q k / sqrt(c) + sum over axes of q . table[query position, key position]) v, where
    tokens lie on a grid of two or three axes, the last one fastest, and `tables` hold the relative
    position vectors of each axis. The query in the bias is not scaled, as in SAM.
    """
    shape = [len(table) for table in tables]
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    scores = scores.unflatten(3, shape)
    for axis, bias in enumerate(_biases(q, tables)):
        for other in range(len(shape)):
            if other != axis:
                bias = bias.unsqueeze(3 + other)
        scores = scores + bias
    return scores.flatten(3).softmax(dim=-1) @ v


def widened(
    q: Float[Tensor, "n heads tokens c"],
    k: Float[Tensor, "n heads tokens c"],
    v: Float[Tensor, "n heads tokens c"],
    tables: Sequence[Float[Tensor, "side side c"]],
) -> Float[Tensor, "n heads tokens c"]:
    """Compute `reference` as plain attention over wider vectors, without the matrix of scores.

    The bias along an axis is the product of the query with the position of the key. Appending
    those products to the query, and the one-hot code of the key's position to the key, adds
    exactly that to their scalar product, so no tokens x tokens bias is ever held, not even for the
    backward pass.
    """
    channels, shape = q.shape[-1], [len(table) for table in tables]
    places = torch.cartesian_prod(*(torch.arange(side, device=q.device) for side in shape))
    codes = [F.one_hot(place, side).to(k) for place, side in zip(places.T, shape, strict=True)]
    one_hot = torch.cat(codes, dim=1)
    # fused kernels want one width for queries, keys and values, and a multiple of 8
    spare = -(channels + sum(shape)) % 8
    wide_q = torch.cat([q * channels**-0.5, *_biases(q, tables)], dim=-1)
    wide_k = torch.cat([k, one_hot.expand(*k.shape[:2], -1, -1)], dim=-1)
    found = F.scaled_dot_product_attention(
        F.pad(wide_q, (0, spare)),
        F.pad(wide_k, (0, spare)),
        F.pad(v, (0, sum(shape) + spare)),
        scale=1.0,
    )
    return found[..., :channels]


def grid_attention(
    q: Float[Tensor, "n heads tokens c"],
    k: Float[Tensor, "n heads tokens c"],
    v: Float[Tensor, "n heads tokens c"],
    tables: Sequence[Float[Tensor, "side side c"]],
    *,
    impl: Impl = "auto",
) -> Float[Tensor, "n heads tokens c"]:
    """Compute `reference`, fused or `widened`; gradients reach the tables too.

    Raises:
        ValueError: The tables do not describe a grid of that many tokens, or `impl="triton"` where
            it cannot run, with the reason.
    """
    shape = [len(table) for table in tables]
    if len(shape) not in (2, 3) or q.shape[2] != torch.Size(shape).numel():
        raise ValueError(f"tables of a grid {shape} do not fit {q.shape[2]} tokens")
    obstacle = _obstacle(q, shape[-1])
    if impl == "reference":
        return reference(q, k, v, tables)
    if not use_triton(impl, q, k, v, *tables, check=self_check, obstacle=obstacle):
        learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, *tables))
        if q.device.type == "cpu" and not learns:
            return tiled(q, k, v, _biases(q, tables))
        return widened(q, k, v, tables)
    from segkit.kernels.triton.attention import grid_attention as fused

    biases = [bias.flatten(0, 1) for bias in _biases(q, tables)]
    if len(biases) == 2:
        biases.insert(0, biases[0].new_empty((*biases[0].shape[:2], 0)))
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    return fused(*flat, *biases, q.shape[-1] ** -0.5)[0].view(q.shape)


def _obstacle(q: Tensor, last: int) -> str:
    """What of the sizes the fused form cannot take; empty if nothing."""
    width = q.shape[-1]
    if width > WIDEST:
        return f"head width must be <= {WIDEST}, got {width}"
    if last > LONGEST:
        return f"the last axis must be <= {LONGEST}, got {last}"
    # a block of keys, several of which lie in shared memory at once
    block = max(64, _power_of_two(last)) * _power_of_two(width) * q.element_size()
    if block <= (_SMALL if _has_little_shared_memory(q.device) else 2 * _SMALL):
        return ""
    return f"heads of {width} in {q.dtype} beside a last axis of {last} need more shared memory"


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def _has_little_shared_memory(device: torch.device) -> bool:
    """Whether a program has about 100 KiB, as on consumer cards, not 160 or more."""
    if device.type != "cuda":
        return False
    return shared_bytes(device) < 160 * 1024


def _biases(
    q: Float[Tensor, "n heads tokens c"], tables: Sequence[Float[Tensor, "side side c"]]
) -> list[Float[Tensor, "n heads tokens side"]]:
    """Products of each query with the positions of all keys along one axis."""
    grid = q.unflatten(2, [len(table) for table in tables])
    letters = "xyz"[: len(tables)]
    return [
        torch.einsum(f"nh{letters}c,{letter}kc->nh{letters}k", grid, table).flatten(2, -2)
        for letter, table in zip(letters, tables, strict=True)
    ]


def self_check(device: torch.device, dtype: torch.dtype) -> float:
    """Relative error of the fused form on a small input."""
    shapes = ((1, 2, 12, 8),) * 3 + ((3, 3, 8), (4, 4, 8))
    inputs = sample(shapes, device, dtype)
    q, k, v, *tables = inputs
    return relative_error(
        grid_attention(q, k, v, tables, impl="triton"), reference(q, k, v, tables), inputs
    )
