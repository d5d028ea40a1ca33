"""SAM 2's memory half, under official key names and of any width."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.memory.attention import MemoryAttention, Recall
from segkit.memory.bank import Recollection
from segkit.memory.encoder import MemoryEncoder
from segkit.memory.positions import grid_sines, time_sines
from segkit.typing import Maps

_SCALE, _BIAS = 20.0, -10.0  # what masks in [0, 1] become before they are encoded


@dataclass(frozen=True, slots=True)
class MemorySizes:
    """All numbers of the memory; the defaults are those of every released SAM 2.1.

    `dim` is the width of features and pointers, `memory_dim` that of what is stored; a pointer is
    cut into `dim / memory_dim` tokens. `maps` counts the rows of the time table: the last is for
    prompted frames, the others for ages 1 and up. `pointers` is one more than the reach of
    pointers. 2.1 has `pointer_positions` and an `occlusion_embedding`, 2.0 has neither. `dropout`
    is active in training only.
    """

    dim: int = 256
    memory_dim: int = 64
    layers: int = 4
    mlp_dim: int = 2048
    fuser_blocks: int = 2
    maps: int = 7
    pointers: int = 16
    pointer_positions: bool = True
    occlusion_embedding: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.dim % 4 or self.memory_dim % 4 or self.dim % self.memory_dim:
            raise ValueError(
                f"dim and memory_dim must be multiples of 4 and dim one of memory_dim, got "
                f"{self.dim} and {self.memory_dim}"
            )


class PointerHead(nn.Module):
    """Three-layer MLP from the token of a mask to the pointer of its object."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))

    @override
    def forward(self, x: Float[Tensor, "objects dim"]) -> Float[Tensor, "objects dim"]:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class Sam2Memory(nn.Module):
    """Everything of a SAM 2 that still images do not need.

    Source: "SAM 2" (Ravi et al., 2024), section 4 and appendix D.1. `no_mem_embed`, which marks
    frames without memory, belongs to the mask decoder. Differences from the released predictor:
    objects are batched; the time code of a pointer is scaled by the fixed reach, where the released
    one scales it by the length of clips shorter than that, which a live stream does not have.

    Example:
        >>> memory = Sam2Memory(MemorySizes(dim=32, memory_dim=16, layers=1, mlp_dim=32))
        >>> index = torch.zeros(2, dtype=torch.long)
        >>> maps = memory.encode(torch.rand(1, 32, 4, 6), torch.rand(2, 1, 64, 96), None, index)
        >>> maps.shape
        torch.Size([2, 24, 16])
    """

    def __init__(self, sizes: MemorySizes) -> None:
        super().__init__()
        self.sizes = sizes
        dim, width = sizes.dim, sizes.memory_dim
        self.memory_attention = MemoryAttention(
            dim, width, layers=sizes.layers, mlp_dim=sizes.mlp_dim, dropout=sizes.dropout
        )
        self.memory_encoder = MemoryEncoder(dim, width, blocks=sizes.fuser_blocks)
        self.mask_downsample = nn.Conv2d(1, 1, 4, 4)
        self.obj_ptr_proj = PointerHead(dim)
        self.maskmem_tpos_enc = _embedding(sizes.maps, 1, 1, width)
        # never read, but every official file has it
        self.no_mem_pos_enc = _embedding(1, 1, dim)
        self.no_obj_ptr = _embedding(1, dim)
        if sizes.pointer_positions:
            self.obj_ptr_tpos_proj = nn.Linear(dim, width)
        if sizes.occlusion_embedding:
            self.no_obj_embed_spatial = _embedding(1, width)

    def attend(
        self,
        maps: Maps,
        recollections: Sequence[Recollection],
        image_index: Int[Tensor, " objects"],
    ) -> Float[Tensor, "objects dim rows cols"]:
        """Condition each object's view of its image on what it remembers."""
        recall = self.recall(recollections, (maps.shape[2], maps.shape[3]), maps.device)
        return self.memory_attention(maps, recall, image_index)

    def encode(
        self,
        maps: Maps,
        masks: Float[Tensor, "objects 1 height width"],
        is_visible: Bool[Tensor, "objects 1"] | None,
        image_index: Int[Tensor, " objects"],
        *,
        is_scaled: bool = True,
    ) -> Float[Tensor, "objects cells memory"]:
        """Make maps to remember of masks in [0, 1], of the size of the model input.

        `maps` have seen no memory. Objects that are not visible are marked as such. Masks are
        scaled to -10 to 10, as the weights of SAM 2 expect, unless `is_scaled` is off.
        """
        masks = masks * _SCALE + _BIAS if is_scaled else masks
        found = self.memory_encoder(maps, masks, image_index)
        found = found.flatten(2).transpose(1, 2)
        if is_visible is not None and self.sizes.occlusion_embedding:
            found = found + (~is_visible)[:, None] * self.no_obj_embed_spatial
        return found

    def pointer(
        self, tokens: Float[Tensor, "objects dim"], is_visible: Bool[Tensor, "objects 1"]
    ) -> Float[Tensor, "objects dim"]:
        """Pointers of visible objects; the one that says "nothing" of the others."""
        return torch.where(is_visible, self.obj_ptr_proj(tokens), self.no_obj_ptr)

    def recall(
        self,
        recollections: Sequence[Recollection],
        size: tuple[int, int],
        device: torch.device,
    ) -> Recall:
        """Stack unequal memories to equal length; a mask says what counts."""
        count = max(len(one.maps) for one in recollections)
        pointers = max(len(one.pointers) for one in recollections)
        maps, map_codes = self._maps(recollections, count, size)
        vectors, codes = self._pointers(recollections, pointers, device)
        is_equal = all(
            len(one.maps) == count and len(one.pointers) == pointers for one in recollections
        )
        cells, parts = size[0] * size[1], self.sizes.dim // self.sizes.memory_dim
        mask = None
        if not is_equal:
            mask = torch.tensor(
                [
                    [place < len(one.maps) for place in range(count) for _ in range(cells)]
                    + [place < len(one.pointers) for place in range(pointers) for _ in range(parts)]
                    for one in recollections
                ],
                device=device,
            )
        return Recall(
            torch.cat([maps, vectors], dim=1), torch.cat([map_codes, codes], dim=1), count, mask
        )

    def _maps(
        self, recollections: Sequence[Recollection], count: int, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "objects tokens memory"], Float[Tensor, "objects tokens memory"]]:
        blank = torch.zeros_like(recollections[0].maps[0][0])
        table = self.maskmem_tpos_enc[:, 0, 0]
        stacked = torch.stack(
            [
                map_
                for one in recollections
                for map_ in [m for m, _ in one.maps] + [blank] * (count - len(one.maps))
            ]
        )
        # age a is in row a - 1; age 0, a prompted frame, thereby in the last
        rows = [
            [age - 1 for _, age in one.maps] + [0] * (count - len(one.maps))
            for one in recollections
        ]
        place = grid_sines(self.sizes.memory_dim, *size, stacked.device)
        codes = place + table[torch.tensor(rows, device=table.device)][:, :, None]
        return stacked.to(table.dtype).view(codes.shape).flatten(1, 2), codes.flatten(1, 2)

    def _pointers(
        self, recollections: Sequence[Recollection], count: int, device: torch.device
    ) -> tuple[Float[Tensor, "objects tokens memory"], Float[Tensor, "objects tokens memory"]]:
        sizes = self.sizes
        parts = sizes.dim // sizes.memory_dim
        vectors = self.no_obj_ptr.new_zeros(len(recollections), count, sizes.dim)
        if count:
            vectors = torch.stack(
                [
                    torch.stack([p for p, _ in one.pointers] + [vectors[0, 0]] * missing)
                    for one in recollections
                    if (missing := count - len(one.pointers)) >= 0
                ]
            )
        codes = vectors.new_zeros(len(recollections), count, sizes.memory_dim)
        if sizes.pointer_positions:
            ages = [
                [age for _, age in one.pointers] + [0] * (count - len(one.pointers))
                for one in recollections
            ]
            when = torch.tensor(ages, dtype=vectors.dtype, device=device) / (sizes.pointers - 1)
            codes = self.obj_ptr_tpos_proj(time_sines(when, sizes.dim))
        tokens = vectors.unflatten(2, (parts, sizes.memory_dim)).flatten(1, 2)
        return tokens, codes.repeat_interleave(parts, dim=1)


def _embedding(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
