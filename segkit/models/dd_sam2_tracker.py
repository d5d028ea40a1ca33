"""Track through a training window as the released code of DD-SAM2 does."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from segkit.decoders.sam2_mask import Sam2Masks
from segkit.errors import InputError
from segkit.memory.attention import Recall
from segkit.memory.bank import Memory, MemoryBank
from segkit.memory.modules import Sam2Memory
from segkit.memory.positions import grid_sines, time_sines
from segkit.models.segmenter import Segmenter, upsample
from segkit.models.tracker import Tracker, TrackPrediction
from segkit.typing import Features, Prompts


class DDSam2Tracker(Tracker):
    """A tracker for windows of `frames` frames that start with the mark, for training only.

    Source: the released code of "DD-SAM2" (2025). What it does and SAM 2 does not, with the ids of
    the method's page: (F4) memory is written from probabilities, where SAM 2 brings them to -10 to
    10 first; (F5) the time code of a map is the sum of those of ages 1 up to its own, because the
    code adds one to what it has stored on every frame, and the marked frame is no exception; (F6)
    the only pointer is that of the first frame, dated with the current place in the window; (F7)
    the single mask is taken on all frames. Nothing happens to objects with a score below 0 but
    their memory being marked. DD-SAM2 itself does none of this at inference.

    Raises:
        InputError: The window is longer than there are time codes for.
    """

    def __init__(self, segmenter: Segmenter, memory: Sam2Memory, *, frames: int) -> None:
        super().__init__(segmenter, memory)
        if frames > (most := memory.sizes.maps + 1):
            raise InputError(
                f"the released training of DD-SAM2 has time codes for windows of up to {most} "
                f"frames, got {frames}",
                fix=f"set data.frames={most} or less, or compat=null",
                code="window_length",
            )
        self.frames = frames

    @override
    def _decode(
        self,
        features: Features,
        ids: Sequence[int],
        coarse: Float[Tensor, "objects dim rows cols"],
        prompts: Prompts,
        index: Tensor,
        *,
        multimask: bool,
    ) -> TrackPrediction:
        return super()._decode(features, ids, coarse, prompts, index, multimask=False)

    @override
    def _predicted(self, ids: Sequence[int], chosen: Sam2Masks) -> TrackPrediction:
        raw = chosen.logits.float()
        pointers = self.memory.obj_ptr_proj(chosen.tokens[:, 0])
        return TrackPrediction(tuple(ids), raw, chosen.iou, chosen.score, raw, pointers)

    @override
    def _remember(
        self, features: Features, found: TrackPrediction, bank: MemoryBank, *, is_prompted: bool
    ) -> MemoryBank:
        masks = upsample(found.logits, features.grid.size).sigmoid()
        index = self._images(found.ids, bank)
        level, is_visible = features.levels[-1], found.score > 0
        maps = self.memory.encode(level, masks, is_visible, index, is_scaled=False)
        return bank.remember(found.ids, maps, found.pointers, is_prompted=is_prompted)

    @override
    def _attend(
        self, features: Features, ids: Sequence[int], bank: MemoryBank, index: Tensor
    ) -> Float[Tensor, "objects dim rows cols"]:
        maps = features.levels[-1]
        recall = self.recall(bank, ids, (maps.shape[2], maps.shape[3]))
        return self.memory.memory_attention(maps, recall, index)

    def recall(self, bank: MemoryBank, ids: Sequence[int], size: tuple[int, int]) -> Recall:
        """What objects attend to on the current frame: one map per frame before it, one pointer."""
        memory = self.memory
        kept = [_by_frame(one.prompted + one.recent) for one in bank.objects if one.id in ids]
        maps = torch.stack([torch.stack([_map(one) for one in each]) for each in kept])
        ages = [bank.frame - one.frame for one in kept[0]]
        summed = memory.maskmem_tpos_enc[:, 0, 0].cumsum(0)[[age - 1 for age in ages]]
        place = grid_sines(memory.sizes.memory_dim, *size, maps.device)
        codes = (place + summed[:, None]).expand_as(maps)
        pointers = torch.stack([each[0].pointer for each in kept])
        parts = memory.sizes.dim // memory.sizes.memory_dim
        pointers = pointers.unflatten(1, (parts, memory.sizes.memory_dim))
        when = self._when(bank, maps).expand_as(pointers)
        return Recall(
            torch.cat([maps.flatten(1, 2).to(summed.dtype), pointers], dim=1),
            torch.cat([codes.flatten(1, 2), when], dim=1),
            len(ages),
        )

    def _when(self, bank: MemoryBank, like: Tensor) -> Float[Tensor, " memory"]:
        """Code of the current place in the window."""
        sizes = self.memory.sizes
        if not sizes.pointer_positions:
            return like.new_zeros(sizes.memory_dim)
        place = torch.tensor(bank.frame / (self.frames - 1), device=like.device)
        return self.memory.obj_ptr_tpos_proj(time_sines(place, sizes.dim))


def _by_frame(memories: tuple[Memory, ...]) -> list[Memory]:
    return sorted(memories, key=lambda one: one.frame)


def _map(one: Memory) -> Tensor:
    assert one.map is not None, "a window is no longer than the reach of maps"
    return one.map
