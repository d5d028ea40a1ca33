"""How sure a mask is: decode it again and again with prompts and embeddings that differ slightly.

Embeddings are those of the cache, so that a sample costs what a decoding costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from segkit.errors import InputError
from segkit.predictors.engine import Engine, Step, extent_of
from segkit.predictors.marks import Box, Mark, Point
from segkit.predictors.watch import UNWATCHED, Watch
from segkit.typing import Features

State = TypeVar("State")
REACH = 0.1
"""A suggested click stands for errors within this share of the object's extent."""
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How samples differ from each other.

    The sides of a box move by normal noise with a standard deviation of `jitter` times its extent,
    clicks by as much of the extent of the mask, but never across its border; on models of slices
    marks stay on their slices. Regions and masks drawn by the user stay as they are. `dropout` is
    the share of channels of the embedding that a sample does without.
    """

    samples: int = 16
    jitter: float = 0.05
    dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"samples must be >= 1, got {self.samples}", fix="16 is usual")
        if not 0 <= self.jitter < 0.5:
            raise InputError(f"jitter must be in [0, 0.5) of the extent, got {self.jitter}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {self.dropout}")


SAMPLING = Sampling()
"""What is drawn where nothing else is asked for."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What several decodings say about one mask.

    `mask` is the one shown, `probability` the mean over the samples, both on the grid of the image;
    `agreement` the mean Dice of `mask` with the masks of the samples. `clicked` are the clicks so
    far and `reach` how far (voxels along each axis) one click tells something.
    """

    mask: Bool[np.ndarray, "..."]
    probability: Float[np.ndarray, "..."]
    agreement: float
    clicked: tuple[tuple[float, ...], ...] = ()
    reach: tuple[float, ...] = ()

    @cached_property
    def entropy(self) -> Float[np.ndarray, "..."]:
        """Entropy of the mean probability in bits, 0 (sure) to 1."""
        p = np.clip(self.probability, 1e-7, 1 - 1e-7)
        found = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        return np.where(self._error > 0, found, 0).astype(np.float32)

    @property
    def dice(self) -> float:
        """Dice to expect of the mask if the mean probability is right; 1 if all is surely empty."""
        inside = float(self.probability[self.mask].sum())
        total = float(self.mask.sum()) + float(self.probability.sum())
        return 2 * inside / total if total > _NEGLIGIBLE else 1.0

    def next_click(self) -> tuple[int, ...] | None:
        """Voxel to look at next, where most of the expected error lies; None if there is none.

        Whether it belongs to the object is for the user to say. Places next to earlier clicks are
        left out.
        """
        if not (near := self._error > _NEGLIGIBLE).any():
            return None
        first, last = extent_of(near)
        crop = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        error = ndimage.gaussian_filter(self._error[crop], self.reach, mode="constant")
        axes = np.ogrid[crop]
        for click in self.clicked:
            steps = [
                (axis - at) / max(reach, 0.5)
                for axis, at, reach in zip(axes, click, self.reach, strict=True)
            ]
            error = np.where(sum(step**2 for step in steps) < 1, 0, error)
        if not error.any():
            return None
        best = np.unravel_index(int(error.argmax()), error.shape)
        return tuple(int(at) + start for at, start in zip(best, first, strict=True))

    @cached_property
    def _error(self) -> Float[np.ndarray, "..."]:
        """Probability that the mask is wrong at each voxel."""
        return np.where(self.mask, 1 - self.probability, self.probability)


def sample(
    engine: Engine[State],
    steps: Sequence[Step[State]],
    mask: Bool[np.ndarray, "..."],
    sampling: Sampling,
    watch: Watch = UNWATCHED,
) -> Ensemble:
    """Repeat all `steps` of a session, which gave `mask`, with small changes.

    Raises:
        CancelledError: `watch` wants no more.
    """
    rng = torch.Generator().manual_seed(sampling.seed)
    edited = engine.edited(_ChannelDropout(sampling.dropout, rng))
    move = _Mover(engine, mask, sampling.jitter, rng)
    total, agreement = np.zeros(engine.shape, dtype=np.float32), 0.0
    for number in range(sampling.samples):
        watch.step(number, sampling.samples)
        state = edited.empty
        for step in _moved(steps, move):
            state = edited.follow(state, step, UNWATCHED)
        logits = edited.logits(state)
        with np.errstate(over="ignore"):
            total += 1 / (1 + np.exp(-logits))
        agreement += _dice(logits > 0, mask)
    watch.step(sampling.samples, sampling.samples)
    return Ensemble(
        mask,
        total / sampling.samples,
        agreement / sampling.samples,
        tuple(mark.index for mark in steps[-1].marks if isinstance(mark, Point)),
        tuple(np.where(move.is_free, np.maximum(REACH * move.extent, 1.0), 0.0).tolist()),
    )


class _ChannelDropout:
    """Leave out a random share of the channels of every feature level; the rest makes up for it."""

    def __init__(self, share: float, rng: torch.Generator) -> None:
        self.share, self.rng = share, rng

    def __call__(self, features: Features) -> Features:
        if not self.share:
            return features
        return replace(features, levels=tuple(self._dropped(level) for level in features.levels))

    @torch.inference_mode()
    def _dropped(self, level: Tensor) -> Tensor:
        shape = (*level.shape[:2], *(1,) * (level.ndim - 2))
        kept = (torch.rand(shape, generator=self.rng) >= self.share).to(level)
        return level * kept / (1 - self.share)


class _Mover:
    """Moves marks as an unsteady hand would."""

    def __init__(
        self,
        engine: Engine[Any],
        mask: Bool[np.ndarray, "..."],
        jitter: float,
        rng: torch.Generator,
    ) -> None:
        self.mask, self.jitter, self.rng = mask, jitter, rng
        axes = mask.ndim
        # axes along which a step leads to another model input
        self.is_free = engine.lies_on(np.eye(axes)) == engine.lies_on(np.zeros((axes, axes)))
        self.extent = np.zeros(axes)
        if mask.any():
            self.extent = np.subtract(*extent_of(mask)[::-1]).astype(float)

    def __call__(self, mark: Mark) -> Mark:
        if isinstance(mark, Point):
            moved = self._noise(self.extent) + mark.index
            place, before = (tuple(np.rint(at).astype(int)) for at in (moved, mark.index))
            inside = all(0 <= at < side for at, side in zip(place, self.mask.shape, strict=True))
            if inside and self.mask[place] == self.mask[before]:
                return replace(mark, index=tuple(moved.tolist()))
        elif isinstance(mark, Box):
            first, last = np.array(mark.first), np.array(mark.last)
            corners = np.stack([first, last]) + np.stack(
                [self._noise(last - first), self._noise(last - first)]
            )
            low = np.clip(corners[0], 0, np.array(self.mask.shape) - 1.0)
            high = np.clip(corners[1], low + 1, self.mask.shape)
            return Box(tuple(low.tolist()), tuple(high.tolist()))
        return mark

    def _noise(self, extent: Float[np.ndarray, " axes"]) -> Float[np.ndarray, " axes"]:
        drawn = torch.randn(len(extent), generator=self.rng, dtype=torch.float64).numpy()
        return np.where(self.is_free, drawn * self.jitter * extent, 0.0)


def _moved(steps: Sequence[Step[State]], move: _Mover) -> list[Step[State]]:
    """The same interactions with moved marks; a mark is moved once, wherever it is named."""
    known: dict[int, Mark] = {}

    def one(mark: Mark) -> Mark:
        if id(mark) not in known:
            known[id(mark)] = move(mark)
        return known[id(mark)]

    return [
        Step(
            tuple(map(one, step.marks)),
            tuple(map(one, step.new)),
            given=step.given,
            propagation=step.propagation,
        )
        for step in steps
    ]


def _dice(first: Bool[np.ndarray, "..."], second: Bool[np.ndarray, "..."]) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0
