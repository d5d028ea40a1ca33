"""How a session's interactions become masks: one engine for slices, one for blocks.

The state of an object is a value. An engine computes the next state from the one before and keeps
nothing of it; what it does keep are embeddings, which all objects of an image share.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.predictors.marks import Mark
from segkit.predictors.watch import Watch
from segkit.typing import Features

State = TypeVar("State")
Extent = tuple[tuple[int, ...], tuple[int, ...]]
"""Half-open voxel box in array order."""
Hint = Literal["box", "mask", "points"]

GIVEN_LOGIT = 8.0
"""Confidence of a mask that the user drew or brought along."""


@dataclass(frozen=True, slots=True)
class Propagation:
    """Carry masks from slice to slice; see `Session.propagate`."""

    hints: tuple[Hint, ...]
    start: int
    stop: int
    min_iou: float
    min_overlap: float
    margin: float

    def __post_init__(self) -> None:
        allowed = get_args(Hint)
        if not self.hints or set(self.hints) - set(allowed):
            raise InputError(f"hints must be some of {allowed}, got {self.hints}")
        if not 0 <= self.margin <= 1:
            raise InputError(f"margin must be in [0, 1] of the box, got {self.margin}")


@dataclass(slots=True, eq=False)
class Step(Generic[State]):
    """All `marks` up to one interaction, what was `new` in it, and the state once computed.

    Exactly one of `new`, `given` and `propagation` says what the interaction was.
    """

    marks: tuple[Mark, ...] = ()
    new: tuple[Mark, ...] = ()
    given: Bool[np.ndarray, "..."] | None = None
    propagation: Propagation | None = None
    state: State | None = None


class Engine(ABC, Generic[State]):
    """Masks of one image or volume for any number of objects; safe to use from several threads."""

    source: Volume | Picture
    points_per_scribble: int
    """Clicks that stand for a scribble on one model input."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image in array order: (k, j, i), or (rows, columns)."""
        return self.source.size if isinstance(self.source, Picture) else self.source.array.shape

    @property
    def geometry(self) -> Geometry | None:
        """Frame of the volume; pictures have none."""
        return None if isinstance(self.source, Picture) else self.source.geometry

    def follow(self, before: State, step: Step[State], watch: Watch) -> State:
        """State after a step."""
        if step.given is not None:
            return self.given(step.given)
        if step.propagation is not None:
            return self.propagate(before, step.propagation, watch)
        return self.refine(before, step, watch)

    @property
    @abstractmethod
    def empty(self) -> State:
        """State without any mark."""

    @property
    @abstractmethod
    def slice_count(self) -> int:
        """Number of slices of the volume along the slice axis."""

    @abstractmethod
    def refine(self, before: State, step: Step[State], watch: Watch) -> State:
        """Decode where new marks are, starting from the mask before; keep the rest."""

    @abstractmethod
    def given(self, mask: Bool[np.ndarray, "..."]) -> State:
        """State of a mask on the grid of the image."""

    @abstractmethod
    def check_propagation(self, propagation: Propagation) -> None:
        """Refuse a propagation that this engine cannot do.

        Raises:
            InputError: The range is outside the volume, or the model sees blocks.
        """

    @abstractmethod
    def propagate(self, before: State, propagation: Propagation, watch: Watch) -> State:
        """Carry the masks of marked slices to their neighbours."""

    @abstractmethod
    def logits(self, state: State) -> Float[np.ndarray, "..."]:
        """Logits on the grid of the image; -inf where nothing was decoded."""

    @abstractmethod
    def mask(self, state: State) -> Bool[np.ndarray, "..."]:
        """Mask on the grid of the image."""

    @abstractmethod
    def scores(self, state: State) -> dict[int, float]:
        """Predicted IoU by model input."""

    @abstractmethod
    def changed(self, before: State, after: State) -> Extent | None:
        """Box of the voxels whose mask differs; None if none does."""

    @abstractmethod
    def edited(self, edit: Callable[[Features], Features]) -> "Engine[State]":
        """The same engine, with every cached embedding changed by `edit` before it is decoded."""

    @abstractmethod
    def lies_on(self, voxels: Float[np.ndarray, "points axes"]) -> Int[np.ndarray, " points"]:
        """Number of the model input to which each voxel index belongs."""


def extent_of(mask: Bool[np.ndarray, "..."], offset: NDArray[np.int64] | None = None) -> Extent:
    """Half-open box around the voxels of a mask that is not empty."""
    first, last = [], []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        shift = 0 if offset is None else int(offset[axis])
        first.append(int(inside[0]) + shift)
        last.append(int(inside[-1]) + 1 + shift)
    return tuple(first), tuple(last)
