"""Marks of one object on one frame, and what it takes to undo them."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from segkit.memory.bank import MemoryBank
from segkit.predictors.marks import Mark
from segkit.predictors.video_masks import ObjectMask


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Marks of one object on one frame, or its mask there, and what they gave.

    `starts`: the frame was decoded without memory, because the object had not been tracked there.
    """

    marks: tuple[Mark, ...] = ()
    given: Bool[np.ndarray, "rows columns"] | None = None
    starts: bool = True
    logits: Float[torch.Tensor, "1 rows cols"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """What an interaction changes, as it was."""

    bank: MemoryBank
    key: tuple[int, int]
    marks: Marks | None
    mask: ObjectMask | None
