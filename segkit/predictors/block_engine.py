"""Masks of one object in blocks of a volume, for models that see three dimensions.

A block is centred on what the user marked. Where the mask reaches its border, a larger block at
lower resolution follows until the mask fits, and the first block is decoded again with that mask
to start from (source of the idea: automatic zoom of nnInteractive, Isensee et al., 2025).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from typing_extensions import override

from segkit.data.block_view import BlockView, sample
from segkit.errors import DataWarning, InputError
from segkit.predictors.blocks import Edge, EncodedBlocks, Frame
from segkit.predictors.drawings import spread_out
from segkit.predictors.engine import GIVEN_LOGIT, Engine, Extent, Propagation, Step, extent_of
from segkit.predictors.marks import Box, Mark, Point
from segkit.predictors.watch import Watch
from segkit.typing import BOX_FIRST, BOX_LAST, Features, Prompts

ZOOM = 1.5
"""How much larger the next block is."""
MARGIN = 1.25
"""A block is at least this many times as long as the marks it is centred on."""
POINTS_INSIDE = 8
"""Clicks that stand for a region."""
MARKS_PER_DECODE = 256
"""More points in one block go in several rounds, each refining the mask of the one before."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockMask:
    """Logits of the object in a box of the volume, and its predicted IoU."""

    frame: Frame
    logits: Float[torch.Tensor, "d h w"]
    iou: float


@dataclass(frozen=True, slots=True, eq=False)
class BlockMark:
    """A mark in model voxels: `points` with the labels of `Prompts`.

    `drawn` is the region it stands for, with positive logits inside.
    """

    points: Float[np.ndarray, "n 3"]
    labels: tuple[int, ...]
    drawn: BlockMask | None = None


Masks = tuple[BlockMask, ...]


class BlockEngine(Engine[Masks]):
    """Prompts a block around each group of marks; the rest of the volume stays as it was."""

    points_per_scribble = 16

    def __init__(self, blocks: EncodedBlocks) -> None:
        self.blocks, self.view, self.source = blocks, blocks.view, blocks.view.source

    @property
    @override
    def empty(self) -> Masks:
        return ()

    @property
    @override
    def slice_count(self) -> int:
        return self.shape[0]

    @override
    def refine(self, before: Masks, step: Step[Masks], watch: Watch) -> Masks:
        marks = [to_model(self.view, mark) for mark in step.marks]
        new = [to_model(self.view, mark) for mark in step.new]
        if not before and not any(any(mark.labels) for mark in marks):
            warnings.warn(
                "only background marks were given; the mask stays empty", DataWarning, stacklevel=2
            )
            return before
        edits = [mark for mark in new if mark.drawn is not None]
        decoder = _Decoder(self.blocks, marks, edits, watch)
        for frame in self._frames(new, before):
            before = self._zoomed(before, frame, decoder)
        return before

    @override
    def given(self, mask: Bool[np.ndarray, "..."]) -> Masks:
        if not mask.any():
            return ()
        oriented = self.view.stack(mask)
        return (_drawn(self.view, oriented, 1.0),)

    @override
    def check_propagation(self, propagation: Propagation) -> None:
        raise InputError(
            "this model sees blocks of the volume, not slices; there is nothing to propagate",
            fix="its mask spans slices already: ask for mask()",
            code="no_propagation",
        )

    @override
    def propagate(self, before: Masks, propagation: Propagation, watch: Watch) -> Masks:
        self.check_propagation(propagation)
        return before

    @override
    def logits(self, state: Masks) -> Float[np.ndarray, "..."]:
        out = np.full(self.view.oriented_shape, -np.inf, dtype=np.float32)
        for mask in state:
            box, values = _inside(mask, self._centres())
            out[box] = values
        return self.view.restore(out)

    @override
    def mask(self, state: Masks) -> Bool[np.ndarray, "..."]:
        return self.view.restore(self._painted(state))

    @override
    def scores(self, state: Masks) -> dict[int, float]:
        return {number: mask.iou for number, mask in enumerate(state)}

    @override
    def changed(self, before: Masks, after: Masks) -> Extent | None:
        kept = {id(mask) for mask in before} & {id(mask) for mask in after}
        touched = [mask for mask in (*before, *after) if id(mask) not in kept]
        if not touched:
            return None
        low = np.min([mask.frame.first for mask in touched], axis=0) / self.view.scale
        high = np.max([mask.frame.last for mask in touched], axis=0) / self.view.scale
        crop = tuple(
            slice(max(int(a), 0), min(int(np.ceil(b)), count))
            for a, b, count in zip(low, high, self.view.oriented_shape, strict=True)
        )
        differs = self._painted(before, crop) ^ self._painted(after, crop)
        if not differs.any():
            return None
        first, last = extent_of(differs, np.array([side.start for side in crop]))
        corners = np.array([first, np.subtract(last, 1)])
        source = np.sort(np.rint(self.view.oriented_to_source(corners)), axis=0)
        return tuple(map(int, source[0])), tuple(map(int, source[1] + 1))

    @override
    def edited(self, edit: Callable[[Features], Features]) -> "BlockEngine":
        return BlockEngine(self.blocks.edited(edit))

    @override
    def lies_on(self, voxels: Float[np.ndarray, "points axes"]) -> Int[np.ndarray, " points"]:
        return np.zeros(len(voxels), dtype=int)

    def _painted(
        self, state: Masks, crop: tuple[slice, ...] = (slice(None),) * 3
    ) -> Bool[np.ndarray, "d h w"]:
        """The mask in a part of the oriented volume."""
        centres = [axis[side] for axis, side in zip(self._centres(), crop, strict=True)]
        out = np.zeros([len(axis) for axis in centres], dtype=bool)
        for mask in state:
            box, values = _inside(mask, centres)
            out[box] = values > 0
        return out

    def _centres(self) -> list[Float[np.ndarray, " n"]]:
        """Voxel centres of the oriented volume along each axis, as edges are counted."""
        return [
            (np.arange(count) + 0.5) * factor
            for count, factor in zip(self.view.oriented_shape, self.view.scale, strict=True)
        ]

    def _frames(self, new: Sequence[BlockMark], before: Masks) -> Iterator[Frame]:
        """Blocks that together hold all new marks, each for a group that fits into one."""
        patch = np.array(self.blocks.patch)
        groups: list[np.ndarray] = []
        for mark in new:
            for number, group in enumerate(groups):
                joined = _corners(np.concatenate([group, mark.points]))
                if (np.ptp(joined, axis=0) * MARGIN + 1 <= patch).all():
                    groups[number] = joined
                    break
            else:
                groups.append(_corners(mark.points))
        for group in groups:
            middle = (group.min(axis=0) + group.max(axis=0) + 1) / 2
            needed = (np.ptp(group, axis=0) + 1) * MARGIN / patch
            zoom = max(1.0, float(needed.max()))
            yield self._known(group, before, zoom) or self._frame(middle, zoom)

    def _known(self, group: np.ndarray, before: Masks, zoom: float) -> Frame | None:
        """A block decoded earlier that has the marks well inside: its embedding serves again."""
        margin = float(min(self.blocks.patch)) / 8
        for mask in reversed(before):
            is_block = mask.frame.size == self.blocks.patch and mask.frame.steps.max() <= zoom
            if is_block and mask.frame.holds(group, margin):
                return mask.frame
        return None

    def _frame(self, middle: Float[np.ndarray, "3"], zoom: float) -> Frame:
        """Block around the edge position `middle`, moved into the volume where it is smaller."""
        size = np.array(self.blocks.patch) * zoom
        room = np.array(self.view.shape) - size
        first = np.round(np.where(room > 0, (middle - size / 2).clip(0, room.clip(0)), room / 2))
        return Frame(_edge(first), _edge(first + size), self.blocks.patch)

    def _zoomed(self, before: Masks, frame: Frame, decoder: "_Decoder") -> Masks:
        """Decode a block, then larger ones while the mask reaches the border of the last."""
        first = widest = decoder(frame, before)
        middle = np.add(frame.first, frame.last) / 2
        while _touches(widest, self.view.shape):
            zoom = float(widest.frame.steps.max()) * ZOOM
            widest = decoder(self._frame(middle, zoom), before)
        if widest is first:
            return _on_top(before, first)
        before = _on_top(before, widest)
        return _on_top(before, decoder(frame, before))


class _Decoder:
    """Decodes the marks of one interaction in any block."""

    def __init__(
        self,
        blocks: EncodedBlocks,
        marks: Sequence[BlockMark],
        edits: Sequence[BlockMark],
        watch: Watch,
    ) -> None:
        self.blocks, self.marks, self.edits, self.watch = blocks, marks, edits, watch
        self._done = 0

    def __call__(self, frame: Frame, state: Masks) -> BlockMask:
        """Mask in a block, starting from the mask so far."""
        # how many blocks follow is known only when the mask fits
        self.watch.step(self._done, self._done + 1)
        points, labels = self._marks(frame)
        prior = self._prior(frame, state)
        is_ambiguous = prior is None and labels == [1]
        # the released network cannot start from a mask: it sees all points at once
        most = MARKS_PER_DECODE if self._takes_masks else max(len(points), 1)
        for start in range(0, max(len(points), 1), most):
            prompts = Prompts(
                torch.tensor(points[start : start + most], dtype=torch.float32).reshape(1, -1, 3),
                torch.tensor(labels[start : start + most], dtype=torch.long)[None],
                prior,
            )
            found = self.blocks.decode(frame, prompts, multimask=is_ambiguous).best()
            prior = found.logits.float()
        self._done += 1
        return BlockMask(frame, found.logits[0, 0].half().cpu(), float(found.iou[0, 0]))

    @property
    def _takes_masks(self) -> bool:
        return getattr(self.blocks.segmenter.prompt_encoder, "compat", None) != "authors"

    def _marks(self, frame: Frame) -> tuple[list[list[float]], list[int]]:
        """Marks in voxels of a block, boxes first and cut at its faces."""
        points: list[list[float]] = []
        labels: list[int] = []
        for mark in sorted(self.marks, key=lambda mark: BOX_FIRST not in mark.labels):
            inside = frame.to_block(mark.points)
            if BOX_FIRST in mark.labels:
                most = np.array(frame.size) - 0.5
                keep = np.full(2, bool((inside[1] >= -0.5).all() and (inside[0] < most).all()))
                inside = inside.clip(0, most - 0.5)
            else:
                keep = np.array([frame.holds(point[None]) for point in mark.points])
            points += inside[keep].tolist()
            labels += np.array(mark.labels)[keep].tolist()
        return points, labels

    def _prior(self, frame: Frame, state: Masks) -> Float[torch.Tensor, "1 1 d h w"] | None:
        """The mask so far in a block, with new regions added or removed; None without any."""
        if not self._takes_masks:
            return None
        out = np.full(frame.size, -GIVEN_LOGIT, dtype=np.float32)
        is_touched = False
        for mask in state:
            box, values = _inside(mask, frame.centres())
            out[box] = values
            is_touched |= values.size > 0
        for edit in self.edits:
            assert edit.drawn is not None
            box, values = _inside(edit.drawn, frame.centres())
            if any(edit.labels):
                out[box] = np.maximum(out[box], values)
                is_touched |= values.size > 0
            else:
                out[box] = np.minimum(out[box], -values)
        return torch.from_numpy(out)[None, None] if is_touched else None


def to_model(view: BlockView, mark: Mark) -> BlockMark:
    """A mark on the grid of the file in model voxels."""
    if isinstance(mark, Point):
        return BlockMark(view.points_to_model(np.array([mark.index])), (mark.label,))
    if isinstance(mark, Box):
        edges = np.subtract([mark.first, mark.last], 0.5)
        corners = np.sort(view.points_to_model(edges), axis=0)
        # corners are inclusive: half a voxel inside the edges, in the middle of what is thinner
        inset = np.minimum(np.ptp(corners, axis=0) / 2, 0.5)
        return BlockMark(np.stack([corners[0] + inset, corners[1] - inset]), (BOX_FIRST, BOX_LAST))
    voxels = np.argwhere(mark.inside) + np.array(mark.first)
    chosen = voxels[spread_out(voxels * np.array(view.source.geometry.spacing_mm), POINTS_INSIDE)]
    oriented = view.stack(mark.on_grid(view.source.array.shape))
    labels = (mark.label,) * len(chosen)
    return BlockMark(view.points_to_model(chosen), labels, _drawn(view, oriented, 0.0))


def _drawn(view: BlockView, oriented: Bool[np.ndarray, "d h w"], iou: float) -> BlockMask:
    """Voxels of the oriented volume as logits in the box around them, exact at the file's grid."""
    low, high = extent_of(oriented)
    inside = oriented[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    logits = torch.from_numpy(np.where(inside, GIVEN_LOGIT, -GIVEN_LOGIT).astype(np.float16))
    frame = Frame(_edge(low * view.scale), _edge(high * view.scale), inside.shape)
    return BlockMask(frame, logits, iou)


def _on_top(state: Masks, mask: BlockMask) -> Masks:
    """Add a mask and drop those it hides."""
    return (*(old for old in state if not mask.frame.covers(old.frame)), mask)


def _inside(
    mask: BlockMask, centres: Sequence[Float[np.ndarray, " n"]]
) -> tuple[tuple[slice, ...], Float[np.ndarray, "d h w"]]:
    """Part of a lattice that a mask covers, and its values there; `centres` count from edges."""
    frame = mask.frame
    cuts, places = [], []
    for first, last, step, axis in zip(frame.first, frame.last, frame.steps, centres, strict=True):
        low, high = np.searchsorted(axis, [first, last])
        cuts.append(slice(int(low), int(high)))
        places.append((axis[low:high] - first) / step - 0.5)
    shape = [len(place) for place in places]
    if min(shape) == 0:
        return tuple(cuts), np.zeros(shape, dtype=np.float32)
    scales = [float(place[1] - place[0]) if len(place) > 1 else 1.0 for place in places]
    return tuple(cuts), sample(mask.logits.float()[None], places, scales)[0].numpy()


def _touches(mask: BlockMask, shape: Sequence[int]) -> bool:
    """Whether the mask reaches a face of its block behind which the volume goes on."""
    inside = mask.logits > 0
    for axis in range(3):
        faces = inside.movedim(axis, 0)
        if mask.frame.first[axis] > 0 and faces[0].any():
            return True
        if mask.frame.last[axis] < shape[axis] and faces[-1].any():
            return True
    return False


def _corners(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "2 3"]:
    return np.stack([points.min(axis=0), points.max(axis=0)])


def _edge(values: Sequence[float] | np.ndarray) -> Edge:
    k, j, i = (float(value) for value in values)
    return (k, j, i)
