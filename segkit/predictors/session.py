"""One image, its prompts and its mask: what a person works with."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch.nn import functional as F

from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import DataWarning, InputError
from segkit.geometry import Geometry, Space
from segkit.predictors.marks import Mark, Numbers, check_box, check_points, settle
from segkit.predictors.model_marks import ModelMark, by_slice, to_prompts
from segkit.predictors.slices import EncodedSlices

MARKS_PER_DECODE = 256
"""More marks on one slice go in several rounds, each refining the mask of the one before."""
GIVEN_LOGIT = 8.0
"""Confidence of a mask that the user drew or brought along."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceMask:
    """Object on one slice: `logits` at the decoder's resolution, predicted `iou`.

    `given` is the user's own mask of the slice while no mark has refined it.
    """

    logits: Float[torch.Tensor, "1 rows cols"]
    iou: float
    given: Bool[np.ndarray, "rows cols"] | None = None


@dataclass(slots=True, eq=False)
class Step:
    """All `marks` up to one interaction, what was `new` in it, and the masks once decoded."""

    marks: tuple[Mark, ...] = ()
    new: tuple[Mark, ...] = ()
    given: Bool[np.ndarray, "..."] | None = None
    masks: Mapping[int, SliceMask] | None = None


class Session:
    """Prompts and mask of one object in an image or a volume.

    Every interaction refines the mask of the one before it, so the result depends on the sequence
    of calls and on nothing else; `undo` returns exactly to the state before. Slices without a mark
    stay empty. Nothing is encoded before the first `mask`, `scores` or `uncertainty`.
    """

    def __init__(self, slices: EncodedSlices, source: Volume | Picture, name: str = "1") -> None:
        self.source, self.name = source, name
        self._slices = slices
        self._steps = [Step(masks=MappingProxyType({}))]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image in array order: (k, j, i), or (rows, columns)."""
        return self.source.size if isinstance(self.source, Picture) else self.source.array.shape

    @property
    def geometry(self) -> Geometry | None:
        """Frame of the volume; pictures have none."""
        return None if isinstance(self.source, Picture) else self.source.geometry

    def add_points(
        self,
        points: Sequence[Numbers],
        labels: Sequence[int],
        *,
        space: Space = "voxel",
    ) -> Self:
        """Add clicks: voxel indices in array order, or millimetres (x, y, z) in "ras" or "lps".

        Raises:
            InputError: See `segkit.predictors.marks.check_points`.
        """
        return self._add(check_points(points, labels, self.shape, self.geometry, space))

    def add_box(self, box: tuple[Numbers, Numbers], *, space: Space = "voxel") -> Self:
        """Add a half-open box `(first, last)`; in a volume it prompts each slice it spans.

        Raises:
            InputError: See `segkit.predictors.marks.check_box`.
        """
        return self._add((check_box(box, self.shape, self.geometry, space),))

    def add_mask(self, mask: Bool[np.ndarray, "..."]) -> Self:
        """Start from an existing mask on the grid of the image.

        Raises:
            InputError: The shape differs from the image's or the values are not boolean.
        """
        if mask.shape != self.shape or mask.dtype != np.bool_:
            raise InputError(
                f"mask prompt has shape {mask.shape} and type {mask.dtype}",
                fix=f"give a bool array of shape {self.shape}",
                code="prompt_mask",
            )
        self._steps.append(Step(given=mask.copy()))
        return self

    def undo(self) -> Self:
        """Take the last interaction back; without one, nothing happens."""
        if len(self._steps) > 1:
            self._steps.pop()
        return self

    def reset(self) -> Self:
        """Take all interactions back; embeddings stay cached."""
        del self._steps[1:]
        return self

    def logits(self) -> Float[np.ndarray, "..."]:
        """Mask logits on the grid of the image; -inf on slices without a mark."""
        stack = np.full(self._slices.view.shape, -np.inf, dtype=np.float32)
        for index, mask in self._resolve().items():
            stack[index] = self._slice_logits(index, mask)
        return self._slices.view.restore(stack)

    def mask(self) -> Bool[np.ndarray, "..."]:
        """Mask on the grid of the image.

        Raises:
            InputError: No prompt has been given.
        """
        return self.logits() > 0

    def scores(self) -> dict[int, float]:
        """Predicted IoU by slice of the view (0 for pictures)."""
        return {index: mask.iou for index, mask in sorted(self._resolve().items())}

    def uncertainty(self) -> Float[np.ndarray, "..."]:
        """Entropy of the predicted probability in bits, 0 (sure) to 1; 0 on slices without mark."""
        with np.errstate(over="ignore"):
            p = 1 / (1 + np.exp(-self.logits()))
        inner = np.clip(p, 1e-7, 1 - 1e-7)
        entropy = -(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner))
        return np.where((p > 0) & (p < 1), entropy, 0).astype(np.float32)

    def save(self, path: str | Path) -> Path:
        """Write the mask as label 1 on the input's own grid; the suffix chooses the format."""
        save(path, self.mask(), self.source, labels={1: self.name})
        return Path(path)

    def _slice_logits(self, index: int, mask: SliceMask) -> Float[np.ndarray, "rows cols"]:
        if mask.given is not None:
            return np.where(mask.given, GIVEN_LOGIT, -GIVEN_LOGIT)
        return self._slices.view.logits_to_source([mask.logits.numpy()], [index])[0][0]

    def _add(self, new: tuple[Mark, ...]) -> Self:
        self._steps.append(Step(settle((*self._steps[-1].marks, *new)), new))
        return self

    def _resolve(self) -> Mapping[int, SliceMask]:
        if len(self._steps) == 1:
            raise InputError(
                "no prompt given", fix="add a point, a box or a mask first", code="no_prompt"
            )
        for before, step in zip(self._steps, self._steps[1:], strict=False):
            if step.masks is None:
                # a step appears only when it is complete: an interrupted one leaves no trace
                step.masks = self._decode(step, before.masks or {})
        return self._steps[-1].masks or {}

    def _decode(self, step: Step, before: Mapping[int, SliceMask]) -> Mapping[int, SliceMask]:
        """Refine the slices that the new marks touch; keep the others."""
        if step.given is not None:
            return self._given_masks(step.given)
        view = self._slices.view
        marks = by_slice(view, step.marks)
        touched = by_slice(view, step.new)
        return {
            **before,
            **{index: self._refine(index, marks[index], before.get(index)) for index in touched},
        }

    def _refine(
        self, index: int, marks: Sequence[ModelMark], before: SliceMask | None
    ) -> SliceMask:
        if before is None and all(mark.labels == (0,) for mark in marks):
            warnings.warn(
                "only background clicks were given; the mask stays empty", DataWarning, stacklevel=2
            )
            return SliceMask(torch.full((1, *self._slices.mask_size), -GIVEN_LOGIT), 0.0)
        is_ambiguous = before is None and len(marks) == 1 and marks[0].labels == (1,)
        logits, iou = None if before is None else before.logits, 0.0
        for start in range(0, len(marks), MARKS_PER_DECODE):
            prompts = to_prompts(marks[start : start + MARKS_PER_DECODE], logits)
            prediction = self._slices.decode(index, prompts, multimask=is_ambiguous).best()
            logits, iou = prediction.logits[0].float().cpu(), float(prediction.iou[0, 0])
        assert logits is not None
        return SliceMask(logits, iou)

    def _given_masks(self, given: Bool[np.ndarray, "..."]) -> dict[int, SliceMask]:
        view = self._slices.view
        stack = view.stack(given)
        return {
            index: SliceMask(self._as_logits(view.label(given, index)), 1.0, stack[index])
            for index in map(int, np.flatnonzero(stack.any(axis=(1, 2))))
        }

    def _as_logits(self, mask: Bool[np.ndarray, "size size"]) -> Float[torch.Tensor, "1 rows cols"]:
        share = F.interpolate(
            torch.from_numpy(mask.astype(np.float32))[None, None],
            self._slices.mask_size,
            mode="area",
        )
        return GIVEN_LOGIT * (2 * share[0] - 1)
