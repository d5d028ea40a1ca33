"""Memory attention: the cells of a frame look at each other and at what is remembered."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.memory.attention_cpu import attend_on_cpu, can_run
from segkit.memory.positions import grid_sines, rotate, rotations
from segkit.typing import Maps

Cells = Float[Tensor, "n cells dim"]
_INPUT_CODE = 0.1  # weight of the position code added to the input, as in the released models


@dataclass(frozen=True, slots=True)
class Recall:
    """Tokens a batch of objects attends to: `count` maps of the grid, then pointer tokens.

    `codes` are added to the keys only. `mask` is true where a token counts; None: all do.
    """

    tokens: Float[Tensor, "objects tokens memory"]
    codes: Float[Tensor, "objects tokens memory"]
    count: int
    mask: Bool[Tensor, "objects tokens"] | None = None


class Projections(nn.Module):
    """The four projections of a single-head attention, under their official names."""

    def __init__(self, dim: int, source_dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(source_dim, dim)
        self.v_proj = nn.Linear(source_dim, dim)
        self.out_proj = nn.Linear(dim, dim)


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to the memory, and an MLP, each with a residual."""

    def __init__(self, dim: int, memory_dim: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Projections(dim, dim)
        self.cross_attn_image = Projections(dim, memory_dim)
        self.linear1, self.linear2 = nn.Linear(dim, mlp_dim), nn.Linear(mlp_dim, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def look_around(self, x: Cells, size: tuple[int, int]) -> tuple[Cells, Cells]:
        """Self-attention; returns the cells and their questions to the memory."""
        turns = rotations(x.shape[-1], *size, x.device)
        attn, y = self.self_attn, self.norm1(x)
        query, key = rotate(attn.q_proj(y), turns), rotate(attn.k_proj(y), turns)
        found = F.scaled_dot_product_attention(
            query[:, None], key[:, None], attn.v_proj(y)[:, None], dropout_p=self._dropout
        )
        x = x + self.dropout(attn.out_proj(found[:, 0]))
        return x, rotate(self.cross_attn_image.q_proj(self.norm2(x)), turns)

    def look_back(self, x: Cells, query: Cells, recall: Recall, size: tuple[int, int]) -> Cells:
        """Attend to the memory."""
        attn = self.cross_attn_image
        cells = size[0] * size[1]
        key = attn.k_proj(recall.tokens + recall.codes)
        maps = key[:, : recall.count * cells].unflatten(1, (recall.count, cells))
        maps = rotate(maps, rotations(x.shape[-1], *size, x.device)).flatten(1, 2)
        key = torch.cat([maps, key[:, recall.count * cells :]], dim=1)
        found = F.scaled_dot_product_attention(
            query[:, None],
            key[:, None],
            attn.v_proj(recall.tokens)[:, None],
            attn_mask=None if recall.mask is None else recall.mask[:, None, None],
            dropout_p=self._dropout,
        )
        return x + self.dropout(attn.out_proj(found[:, 0]))

    def think(self, x: Cells) -> Cells:
        """MLP on each cell."""
        hidden = self.dropout(F.relu(self.linear1(self.norm3(x))))
        return x + self.dropout(self.linear2(hidden))

    @property
    def _dropout(self) -> float:
        return self.dropout.p if self.training else 0.0


class MemoryAttention(nn.Module):
    """Condition the coarsest feature level on the memory of each object.

    Source: "SAM 2" (Ravi et al., 2024), section 4 and appendix D.1. Differences: objects with
    unequal memories share a batch through a mask; maps need not be square; what does not depend on
    the object, the first self-attention and its questions, is computed once per image.
    """

    def __init__(
        self, dim: int, memory_dim: int, *, layers: int, mlp_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(dim, memory_dim, mlp_dim, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    @override
    def forward(
        self, maps: Maps, recall: Recall, image_index: Int[Tensor, " objects"]
    ) -> Float[Tensor, "objects dim rows cols"]:
        """`maps` hold one image each, `recall` one row per object on image `image_index`."""
        dim, rows, cols = maps.shape[1:]
        size = (rows, cols)
        x = maps.flatten(2).transpose(1, 2)
        x = x + _INPUT_CODE * grid_sines(dim, rows, cols, maps.device)
        if can_run(x, is_training=self.training):
            turns = rotations(dim, rows, cols, maps.device)
            x = attend_on_cpu(self.layers, x, recall, image_index, turns)
            return self.norm(x).transpose(1, 2).unflatten(2, size)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, MemoryAttentionLayer)
            x, query = layer.look_around(x, size)
            if index == 0:
                x, query = x[image_index], query[image_index]
            x = layer.think(layer.look_back(x, query, recall, size))
        return self.norm(x).transpose(1, 2).unflatten(2, size)
