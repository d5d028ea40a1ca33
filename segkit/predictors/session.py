"""One image, its objects, their prompts and their masks: what a person works with."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import RLock
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import InputError
from segkit.geometry import Geometry, Space
from segkit.predictors.drawings import Drawing, check_lasso, check_scribble
from segkit.predictors.engine import Engine, Extent, Hint, Propagation, Step
from segkit.predictors.marks import (
    Box,
    Mark,
    Numbers,
    Region,
    check_box,
    check_labels,
    check_points,
    settle,
)
from segkit.predictors.uncertainty import SAMPLING, Ensemble, Sampling, sample
from segkit.predictors.watch import UNWATCHED, Cancel, Progress, Watch


class Session:
    """Prompts and mask of one object in an image or a volume; `object` opens further objects.

    Every interaction refines the mask of the one before it, so the result depends on the sequence
    of calls and on nothing else; `undo` returns exactly to the state before. Nothing is encoded or
    decoded before it is looked at (`mask`, `scores`, `update` and the like). Calls may come from
    several threads; one that arrives during decoding waits.

    Example:
        >>> from segkit.models import build
        >>> from segkit.predictors import VolumePredictor
        >>> volume = (np.zeros((4, 32, 32)), Geometry.from_spacing((4, 32, 32), (3.0, 1.0, 1.0)))
        >>> session = VolumePredictor(build.sam_tiny(), device="cpu").open(volume)
        >>> tumour = session.object("tumour").add_points([(2, 10, 12)], [1])
        >>> session.add_box(((1, 4, 4), (3, 20, 20))).mask().shape, session.labels().shape
        ((4, 32, 32), (4, 32, 32))
    """

    def __init__(
        self, engine: Engine[Any], name: str = "1", beside: "Session | None" = None
    ) -> None:
        self.source: Volume | Picture = engine.source
        self.name = name
        self._engine = engine
        # one lock for all objects of an image: they share its embeddings
        self._lock: AbstractContextManager[object] = RLock() if beside is None else beside._lock
        self._objects: list[Session] = [] if beside is None else beside._objects
        self._objects.append(self)
        self._steps: list[Step[Any]] = [Step(state=engine.empty)]
        self._undone: list[Step[Any]] = []
        # what was shown before and after the last calls that changed something
        self._before = self._shown = engine.empty
        self._is_shown = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image in array order: (k, j, i), or (rows, columns)."""
        return self._engine.shape

    @property
    def geometry(self) -> Geometry | None:
        """Frame of the volume; pictures have none."""
        return self._engine.geometry

    @property
    def slice_axis(self) -> int | None:
        """Array axis (0 k, 1 j, 2 i) of the slices the model sees; None if it sees no slices."""
        if isinstance(self.source, Picture):
            return None
        return getattr(self._engine, "slice_axis", None)

    @property
    def objects(self) -> tuple["Session", ...]:
        """All objects of the image in the order of their creation, this one included."""
        return tuple(self._objects)

    @property
    def interactions(self) -> int:
        """Number of interactions that `undo` could take back."""
        return len(self._steps) - 1

    @property
    def has_prompts(self) -> bool:
        """Whether an interaction is left after `undo` and `reset`."""
        return self.interactions > 0

    def object(self, name: str) -> "Session":
        """Object of that name, created at its first call; objects share the embeddings."""
        with self._lock:
            known = next((one for one in self._objects if one.name == name), None)
            return known or Session(self._engine, name, self)

    def remove(self) -> None:
        """Forget this object: it no longer counts in `objects` and `labels` of the others."""
        with self._lock:
            self.reset()
            if self in self._objects:
                self._objects.remove(self)

    def add_points(
        self, points: Sequence[Numbers], labels: Sequence[int], *, space: Space = "voxel"
    ) -> Self:
        """Add clicks: voxel indices in array order, or millimetres (x, y, z) in "ras" or "lps".

        Raises:
            InputError: See `segkit.predictors.marks.check_points`.
        """
        return self._add(check_points(points, labels, self.shape, self.geometry, space))

    def add_box(
        self, box: tuple[Numbers, Numbers], label: int = 1, *, space: Space = "voxel"
    ) -> Self:
        """Add a half-open box `(first, last)`; in a volume it prompts each slice it spans.

        With `label` 0 the voxels inside are not part of the object.

        Raises:
            InputError: See `segkit.predictors.marks.check_box`.
        """
        check_labels([label])
        checked = check_box(box, self.shape, self.geometry, space)
        return self._add((checked if label else _filled(checked),))

    def add_scribble(self, scribble: Drawing, label: int = 1, *, space: Space = "voxel") -> Self:
        """Add a line drawn by hand: a bool array, or the vertices of a polyline.

        The model gets a few clicks along it, on each slice it crosses.

        Raises:
            InputError: See `segkit.predictors.drawings.check_scribble`.
        """
        points = check_scribble(
            scribble,
            label,
            self.shape,
            self.geometry,
            space,
            slices=self._engine.lies_on,
            most=self._engine.points_per_scribble,
        )
        return self._add(points)

    def add_lasso(self, lasso: Drawing, label: int = 1, *, space: Space = "voxel") -> Self:
        """Add a closed curve on one slice: its vertices, or a bool array of what it encloses.

        The model gets the region as a mask to start from, clicks inside it, and the box around
        it where it is the first mark.

        Raises:
            InputError: See `segkit.predictors.drawings.check_lasso`.
        """
        return self._add((check_lasso(lasso, label, self.shape, self.geometry, space),))

    def add_mask(self, mask: Bool[np.ndarray, "..."]) -> Self:
        """Start from an existing mask on the grid of the image; earlier marks count no more.

        Raises:
            InputError: The shape differs from the image's or the values are not boolean.
        """
        if mask.shape != self.shape or mask.dtype != np.bool_:
            raise InputError(
                f"mask prompt has shape {mask.shape} and type {mask.dtype}",
                fix=f"give a bool array of shape {self.shape}",
                code="prompt_mask",
            )
        return self._append(lambda _: Step(given=mask.copy()))

    def propagate(
        self,
        *,
        start: int | None = None,
        stop: int | None = None,
        hints: Sequence[Hint] = ("box", "points"),
        min_iou: float = 0.5,
        min_overlap: float = 0.3,
        margin: float = 0.1,
    ) -> Self:
        """Carry the masks of marked slices to the slices between and beyond them.

        Each slice is prompted by `hints` ("box", "mask", "points") taken from its neighbour's mask;
        boxes are wider than it by a share `margin` of their extent on each side.
        Between two marked slices whose masks overlap, the outline between theirs gives the prompts,
        without `margin`, and is the mask where the model's own collapses. Elsewhere a
        walk ends at slice `start` or before `stop` (voxel slices along the slice axis; default
        all), at the next marked slice, halfway to one that comes to meet it, or where the mask
        collapses: predicted IoU below `min_iou`, IoU with its neighbour below `min_overlap`, or a
        tenth of its area. Slices carried over earlier are replaced.

        Raises:
            InputError: No prompt yet, a range outside the volume, an unknown hint, a margin outside
                [0, 1], or a model that sees blocks and needs no propagation.
        """
        stop = self._engine.slice_count if stop is None else stop
        how = Propagation(tuple(hints), start or 0, stop, min_iou, min_overlap, margin)
        self._engine.check_propagation(how)
        with self._lock:
            self._check_prompted()
            return self._append(lambda last: Step(last.marks, propagation=how))

    def undo(self) -> Self:
        """Take the last interaction back; without one, nothing happens."""
        with self._lock:
            if self.has_prompts:
                self._undone.append(self._steps.pop())
                self._is_shown = False
        return self

    def redo(self) -> Self:
        """Repeat what `undo` took back, until something else is added."""
        with self._lock:
            if self._undone:
                self._steps.append(self._undone.pop())
                self._is_shown = False
        return self

    def reset(self) -> Self:
        """Take all interactions back for good; embeddings stay cached."""
        with self._lock:
            del self._steps[1:]
            self._undone.clear()
            self._is_shown = False
        return self

    def update(self, *, progress: Progress | None = None, cancel: Cancel | None = None) -> Self:
        """Decode what is waiting; `mask` and the others do it too, without being watched.

        `progress(done, total)` counts the model inputs of each interaction, `cancel()` is asked
        before each.

        Raises:
            CancelledError: `cancel` returned true; interactions not decoded yet are gone, and the
                session is as before them.
        """
        with self._lock:
            self._resolve(Watch(progress, cancel))
        return self

    def changed_box(self) -> Extent | None:
        """Half-open voxel box of what the last calls changed, None if they changed nothing.

        Counts everything since the mask was looked at before: interactions, `undo`, `redo` and
        `reset`.
        """
        with self._lock:
            self._resolve()
            return self._engine.changed(self._before, self._shown)

    def logits(self) -> Float[np.ndarray, "..."]:
        """Mask logits on the grid of the image; -inf where nothing was decoded.

        Raises:
            InputError: No prompt has been given.
        """
        return self._engine.logits(self._state())

    def mask(self) -> Bool[np.ndarray, "..."]:
        """Mask on the grid of the image; other objects do not matter, see `labels`.

        Raises:
            InputError: No prompt has been given.
        """
        return self._engine.mask(self._state())

    def scores(self) -> dict[int, float]:
        """Predicted IoU by slice of the view (0 for pictures), or by block, oldest first.

        Raises:
            InputError: No prompt has been given.
        """
        return self._engine.scores(self._state())

    def uncertainty(self) -> Float[np.ndarray, "..."]:
        """Entropy of the predicted probability in bits, 0 (sure) to 1; 0 where nothing was decoded.

        Raises:
            InputError: No prompt has been given.
        """
        with np.errstate(over="ignore"):
            p = 1 / (1 + np.exp(-self.logits()))
        inner = np.clip(p, 1e-7, 1 - 1e-7)
        entropy = -(inner * np.log2(inner) + (1 - inner) * np.log2(1 - inner))
        return np.where((p > 0) & (p < 1), entropy, 0).astype(np.float32)

    def ensemble(
        self,
        sampling: Sampling = SAMPLING,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Ensemble:
        """Decode the object several times with slightly different prompts and embeddings.

        What comes back has entropy by voxel, the Dice to expect, and the place to look at next. The
        session does not change; nothing is encoded again.

        Raises:
            InputError: No prompt has been given.
            CancelledError: `cancel` returned true.
        """
        mask = self.mask()
        with self._lock:
            steps = tuple(self._steps[1:])
        return sample(self._engine, steps, mask, sampling, Watch(progress, cancel))

    def suggest_click(self, sampling: Sampling = SAMPLING) -> tuple[int, ...] | None:
        """Voxel index that is worth a click next, None where the mask is sure everywhere.

        Whether it belongs to the object is for the user to say.

        Raises:
            InputError: No prompt has been given.
        """
        return self.ensemble(sampling).next_click()

    def labels(self) -> UInt8[np.ndarray, "..."]:
        """All objects with prompts in one map, 1, 2, ... in the order of `objects`.

        A voxel that several claim goes to the one with the highest logit, the earlier in a tie.

        Raises:
            InputError: No object has a prompt, or more than 255 have.
        """
        named = self._prompted()
        if len(named) == 1:
            return named[0].mask().astype(np.uint8)
        out = np.zeros(self.shape, dtype=np.uint8)
        best = np.zeros(self.shape, dtype=np.float32)
        for value, one in enumerate(named, start=1):
            logits = one.logits()
            wins = logits > best
            out[wins], best[wins] = value, logits[wins]
        return out

    def save(self, path: str | Path) -> Path:
        """Write the label map on the input's own grid; the suffix chooses the format."""
        names = {value: one.name for value, one in enumerate(self._prompted(), start=1)}
        save(path, self.labels(), self.source, labels=names)
        return Path(path)

    def _prompted(self) -> list["Session"]:
        named = [one for one in self._objects if one.has_prompts]
        if not named:
            self._check_prompted()
        if len(named) > np.iinfo(np.uint8).max:
            raise InputError(f"a label map holds 255 objects, got {len(named)}")
        return named

    def _check_prompted(self) -> None:
        if not self.has_prompts:
            raise InputError(
                "no prompt given", fix="add a point, a box or a mask first", code="no_prompt"
            )

    def _add(self, new: tuple[Mark, ...]) -> Self:
        return self._append(lambda last: Step(settle((*last.marks, *new)), new))

    def _append(self, follow: Callable[[Step[Any]], Step[Any]]) -> Self:
        with self._lock:
            self._steps.append(follow(self._steps[-1]))
            self._undone.clear()
            self._is_shown = False
        return self

    def _state(self) -> Any:
        with self._lock:
            self._check_prompted()
            return self._resolve()

    def _resolve(self, watch: Watch = UNWATCHED) -> Any:
        for number, step in enumerate(self._steps[1:], start=1):
            if step.state is not None:
                continue
            try:
                # a step appears only when it is complete: an interrupted one leaves no trace
                step.state = self._engine.follow(self._steps[number - 1].state, step, watch)
            except BaseException:
                del self._steps[number:]
                raise
        state = self._steps[-1].state
        if not self._is_shown:
            self._before, self._shown, self._is_shown = self._shown, state, True
        return state


def _filled(box: Box) -> Region:
    """Voxels of a box that takes away."""
    first, last = (np.ceil(corner).astype(int) for corner in (box.first, box.last))
    return Region(tuple(map(int, first)), np.ones(tuple(np.maximum(last - first, 1)), bool), 0)
