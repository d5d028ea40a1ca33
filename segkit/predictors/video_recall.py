"""Memory of any place in a sequence: what is still held, and the rest from masks and frames."""

from collections.abc import Callable, Collection

import numpy as np
import torch

from segkit.memory.bank import Direction, Memory, MemoryBank, ObjectMemory
from segkit.models.tracker import Tracker
from segkit.predictors.video_masks import MaskTrack, ObjectMask
from segkit.predictors.video_view import FrameView
from segkit.typing import Features


class Recaller:
    """Bring a bank to another place in the sequence.

    Maps that have left the bank are encoded again from the frame and its mask, which costs one
    image encoding per frame. The mask has lost its soft border, so the map differs a little from
    the one that was dropped.
    """

    def __init__(self, tracker: Tracker, encode: Callable[[int], Features]) -> None:
        self._tracker, self._encode = tracker, encode

    def bank_at(
        self,
        bank: MemoryBank,
        track: MaskTrack,
        view: FrameView,
        marked: Collection[tuple[int, int]],
        place: tuple[int, Direction],
    ) -> MemoryBank:
        """Memory as it was before frame `place`, of frames tracked before it in its direction.

        `marked` are the (object, frame) that the bank keeps anyway.
        """
        frame, direction = place
        bank = bank.at(frame, direction)
        for one in bank.objects:
            memories: list[Memory] = []
            for age in range(bank.capacity.pointers, 0, -1):
                then = frame - direction * age
                mask = track.get(then, one.id)
                if mask is None or (one.id, then) in marked:
                    continue
                held = _held(one, then)
                has_map = age <= bank.capacity.maps
                if held is None or (has_map and held.map is None):
                    held = self._recalled(then, mask, view, bank.rounds, has_map=has_map)
                memories.append(held)
            bank = bank.with_recent(one.id, memories)
        return bank

    @torch.inference_mode()
    def _recalled(
        self, frame: int, mask: ObjectMask, view: FrameView, rounds: bool, *, has_map: bool
    ) -> Memory:
        device = self._tracker.device
        pointer = torch.from_numpy(np.frombuffer(mask.pointer, dtype=np.float32).copy())
        map_ = None
        if has_map:
            given = view.given(mask.runs.mask())[None, None].to(device, torch.float32)
            map_ = self._tracker.memorise(self._encode(frame), given)[0]
            map_ = map_.to(torch.bfloat16) if rounds else map_
        return Memory(frame, pointer.to(device), map_)


def _held(one: ObjectMemory, frame: int) -> Memory | None:
    return next((memory for memory in one.recent if memory.frame == frame), None)
