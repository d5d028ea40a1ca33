"""Masks of one object on the slices of a view, for models that see one slice at a time."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch.nn import functional as F
from typing_extensions import override

from segkit.data.volume import Picture
from segkit.data.zoom import Window
from segkit.errors import DataWarning, InputError
from segkit.predictors.close_up import look_closely, reduced
from segkit.predictors.engine import GIVEN_LOGIT, Engine, Extent, Propagation, Step
from segkit.predictors.model_marks import ModelMark, by_slice, stack_to_source, to_prompts
from segkit.predictors.propagation import carry
from segkit.predictors.slices import EncodedSlices
from segkit.predictors.watch import Watch
from segkit.typing import Features

MARKS_PER_DECODE = 256
"""More marks on one slice go in several rounds, each refining the mask of the one before."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceMask:
    """Object on one slice: `logits` at the decoder's resolution, predicted `iou`.

    `bits` is the mask on the source pixels, packed; `is_given` says that it is the user's own,
    `is_seed` that it stands on marks of its own and was not carried over from a neighbour.
    `on_source` are the logits on the source pixels of a decoder whose masks are continuous. With
    `window` the logits are those of a window of the slice; outside it there is nothing.
    """

    logits: Float[torch.Tensor, "1 rows cols"]
    iou: float
    bits: UInt8[np.ndarray, " bytes"]
    is_given: bool = False
    is_seed: bool = True
    on_source: Float[np.ndarray, "rows columns"] | None = None
    window: Window | None = None


Masks = Mapping[int, SliceMask]


class SliceEngine(Engine[Masks]):
    """Prompts each marked slice of a view by itself; slices without a mark stay empty."""

    points_per_scribble = 8

    def __init__(self, slices: EncodedSlices) -> None:
        self.slices, self.view, self.source = slices, slices.view, slices.view.source

    @property
    @override
    def empty(self) -> Masks:
        return MappingProxyType({})

    @property
    @override
    def slice_count(self) -> int:
        return self.view.shape[0]

    @property
    def slice_axis(self) -> int:
        """Axis of the array (0 k, 1 j, 2 i) along which the slices of a volume lie."""
        away = self.lies_on(np.eye(3)) - self.lies_on(np.zeros((3, 3)))
        return int(np.abs(away).argmax())

    @override
    def refine(self, before: Masks, step: Step[Masks], watch: Watch) -> Masks:
        marks, touched = by_slice(self.view, step.marks), by_slice(self.view, step.new)
        after = dict(before)
        for done, index in enumerate(touched):
            watch.step(done, len(touched))
            after[index] = self._refine(index, marks[index], touched[index], before.get(index))
        watch.step(len(touched), len(touched))
        return after

    @override
    def given(self, mask: Bool[np.ndarray, "..."]) -> Masks:
        stack = self.view.stack(mask)
        return {
            index: SliceMask(
                self._as_logits(stack[index]), 1.0, np.packbits(stack[index]), is_given=True
            )
            for index in map(int, np.flatnonzero(stack.any(axis=(1, 2))))
        }

    @override
    def check_propagation(self, propagation: Propagation) -> None:
        if isinstance(self.source, Picture):
            raise InputError("a picture has one slice; there is nothing to propagate")
        start, stop, count = propagation.start, propagation.stop, self.view.shape[0]
        if not 0 <= start < stop <= count:
            raise InputError(
                f"slices {start} to {stop} do not lie in this volume",
                fix=f"the slice axis has {count} slices: 0 <= start < stop <= {count}; the image "
                f"has shape {self.shape} (k, j, i)",
                code="prompt_outside",
            )

    @override
    def propagate(self, before: Masks, propagation: Propagation, watch: Watch) -> Masks:
        seeds = {index: mask for index, mask in before.items() if mask.is_seed}
        filled = {
            index: self._of_whole(index, mask) for index, mask in seeds.items() if mask.bits.any()
        }
        if not filled:
            raise InputError(
                "there is no mask to propagate", fix="mark a slice first", code="no_prompt"
            )
        chosen = self._range(propagation)
        found = carry(self.slices, filled, set(seeds), chosen, propagation, watch)
        kept = {
            index: mask for index, mask in before.items() if mask.is_seed or index not in chosen
        }
        carried = {
            index: self._slice_mask(index, logits, iou, is_seed=False)
            for index, (logits, iou) in found.items()
        }
        return {**kept, **carried}

    @override
    def logits(self, state: Masks) -> Float[np.ndarray, "..."]:
        stack = np.full(self.view.shape, -np.inf, dtype=np.float32)
        for index, mask in state.items():
            stack[index] = self._logits(index, mask)
        return self.view.restore(stack)

    @override
    def mask(self, state: Masks) -> Bool[np.ndarray, "..."]:
        stack = np.zeros(self.view.shape, dtype=bool)
        for index, mask in state.items():
            stack[index] = self._plane(mask)
        return self.view.restore(stack)

    @override
    def scores(self, state: Masks) -> dict[int, float]:
        return {index: mask.iou for index, mask in sorted(state.items())}

    @override
    def changed(self, before: Masks, after: Masks) -> Extent | None:
        corners: list[tuple[int, int, int]] = []
        for index in before.keys() | after.keys():
            old, new = before.get(index), after.get(index)
            if old is new:
                continue
            differs = self._plane(old) ^ self._plane(new)
            if differs.any():
                rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
                corners += [(index, rows[0], columns[0]), (index, rows[-1], columns[-1])]
        if not corners:
            return None
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        source = np.sort(np.rint(stack_to_source(self.view, np.stack([low, high]))), axis=0)
        return tuple(map(int, source[0])), tuple(map(int, source[1] + 1))

    @override
    def edited(self, edit: Callable[[Features], Features]) -> "SliceEngine":
        return SliceEngine(self.slices.edited(edit))

    @override
    def lies_on(self, voxels: Float[np.ndarray, "points axes"]) -> Int[np.ndarray, " points"]:
        return np.rint(self.view.points_to_model(voxels)[:, 0]).astype(int)

    def _refine(
        self,
        index: int,
        marks: Sequence[ModelMark],
        new: Sequence[ModelMark],
        before: SliceMask | None,
    ) -> SliceMask:
        if before is None and all(mark.is_negative for mark in marks):
            warnings.warn(
                "only background marks were given; the mask stays empty", DataWarning, stacklevel=2
            )
            return self._slice_mask(
                index, torch.full((1, *self.slices.mask_size), -GIVEN_LOGIT), 0.0
            )
        is_ambiguous = before is None and len(marks) == 1 and marks[0].labels == (1,)
        if self.view.spec.zoom is not None:
            return self._refine_closely(index, marks, new, before, multimask=is_ambiguous)
        logits, iou = self._prior(new, before), 0.0
        for start in range(0, len(marks), MARKS_PER_DECODE):
            prompts = to_prompts(marks[start : start + MARKS_PER_DECODE], logits)
            prediction = self.slices.decode(index, prompts, multimask=is_ambiguous).best()
            logits, iou = prediction.logits[0].float().cpu(), float(prediction.iou[0, 0])
        assert logits is not None
        if self.slices.has_fields:
            native = self.slices.on_source(index, prompts)
            return SliceMask(logits, iou, np.packbits(native > 0), on_source=native)
        return self._slice_mask(index, logits, iou)

    def _refine_closely(
        self,
        index: int,
        marks: Sequence[ModelMark],
        new: Sequence[ModelMark],
        before: SliceMask | None,
        *,
        multimask: bool,
    ) -> SliceMask:
        plane = None if before is None else self._logits(index, before)
        window = None if before is None else before.window
        for drawn, is_negative in ((one.inside, one.is_negative) for one in new):
            if drawn is None:
                continue
            given = np.where(drawn, GIVEN_LOGIT, -GIVEN_LOGIT).astype(np.float32)
            if is_negative:
                plane = None if plane is None else np.minimum(plane, -given)
            else:
                plane = given if plane is None else np.maximum(plane, given)
        for start in range(0, len(marks), MARKS_PER_DECODE):
            found = look_closely(
                self.slices,
                index,
                to_prompts(marks[start : start + MARKS_PER_DECODE], None),
                prior=plane,
                window=window,
                multimask=multimask,
            )
            plane, window = found.plane, found.window
        on_source = found.plane if self.slices.has_fields else None
        bits = np.packbits(found.plane > 0)
        return SliceMask(found.logits, found.iou, bits, on_source=on_source, window=window)

    def _prior(
        self, new: Sequence[ModelMark], before: SliceMask | None
    ) -> Float[torch.Tensor, "1 rows cols"] | None:
        """Mask prompt: the mask before, with encircled pixels added or removed."""
        logits = None if before is None else before.logits
        for mark in new:
            if mark.inside is None:
                continue
            drawn = self._as_logits(mark.inside)
            if mark.is_negative:
                logits = None if logits is None else torch.minimum(logits, -drawn)
            else:
                logits = drawn if logits is None else torch.maximum(logits, drawn)
        return logits

    def _slice_mask(
        self,
        index: int,
        logits: Float[torch.Tensor, "1 rows cols"],
        iou: float,
        *,
        is_seed: bool = True,
    ) -> SliceMask:
        plane = self.view.logits_to_source([logits.numpy()], [index])[0][0] > 0
        return SliceMask(logits, iou, np.packbits(plane), is_seed=is_seed)

    def _logits(self, index: int, mask: SliceMask) -> Float[np.ndarray, "rows columns"]:
        """Logits on the pixels of a slice."""
        if mask.is_given:
            return np.where(self._plane(mask), GIVEN_LOGIT, -GIVEN_LOGIT).astype(np.float32)
        if mask.on_source is not None:
            return mask.on_source
        view = self.view
        if mask.window is not None:
            view = self.slices.cropped(mask.window).view
        shown: Float[np.ndarray, "rows columns"]
        shown = view.logits_to_source([mask.logits.numpy()], [index])[0][0]
        if mask.window is None:
            return shown
        plane = np.full(self.view.shape[1:], -GIVEN_LOGIT, dtype=np.float32)
        plane[mask.window] = shown
        return plane

    def _of_whole(self, index: int, mask: SliceMask) -> Float[torch.Tensor, "1 rows cols"]:
        """Logits of the whole slice at the decoder's resolution."""
        if mask.window is None:
            return mask.logits
        return reduced(self.view, self._logits(index, mask), self.slices.mask_size)

    def _plane(self, mask: SliceMask | None) -> Bool[np.ndarray, "rows columns"]:
        rows, columns = self.view.shape[1:]
        if mask is None:
            return np.zeros((rows, columns), dtype=bool)
        bits = np.unpackbits(mask.bits, count=rows * columns)
        return bits.reshape(rows, columns).astype(bool)

    def _as_logits(
        self, plane: Bool[np.ndarray, "rows columns"]
    ) -> Float[torch.Tensor, "1 rows cols"]:
        """Source pixels of a slice as logits at the decoder's resolution."""
        (height, width), side = self.view.content_size, self.view.spec.size
        drawn = torch.from_numpy(plane.astype(np.float32))[None, None]
        scaled = F.interpolate(drawn, (height, width), mode="nearest-exact")
        padded = F.pad(scaled, (0, side - width, 0, side - height))
        share = F.interpolate(padded, self.slices.mask_size, mode="area")
        return GIVEN_LOGIT * (2 * share[0] - 1)

    def _range(self, propagation: Propagation) -> range:
        """Slices of the view between the voxel slices `start` and `stop` of the image."""
        ends = np.zeros((2, 3))
        ends[:, self.slice_axis] = propagation.start, propagation.stop - 1
        low, high = np.sort(self.lies_on(ends))
        return range(int(low), int(high) + 1)
