"""One object being segmented, as the wire needs it: what changed, in which box.

The only place that knows what predictors and their sessions can do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from segkit.data.preprocess import SliceView
from segkit.data.volume import Picture, Volume
from segkit.predictors.base import Predictor
from segkit.predictors.engine import extent_of
from segkit.predictors.session import Session
from segkit.predictors.slice_engine import SliceEngine
from segkit.predictors.slices import EncodedSlices
from segkit.serve.faults import bad
from segkit.serve.messages import Box, Drawing, Points, Prompt, Propagate
from segkit.serve.worker import Task, pause

Edges = tuple[tuple[int, int], ...]
"""Half-open (low, high) of a box for each axis, in array order."""

AHEAD = 3
"""Slices on either side of one that was marked are encoded while nothing else is asked."""
MOST_AHEAD_S = 0.25
"""Models that take longer for a slice do not work ahead: a click would wait for its end."""


class Encoded:
    """An image together with a model: its embeddings serve every object on it."""

    def __init__(self, source: Volume | Picture, predictor: Predictor) -> None:
        self.source = source
        self._first = predictor.open(source)

    def session(self, object_id: str) -> Session:
        """A new object on the image."""
        return self._first.object(object_id)

    @property
    def slices(self) -> EncodedSlices:
        """Embeddings of the slices.

        Raises:
            Refusal: 400; the model sees volumes as a whole.
        """
        slices = getattr(self._first._engine, "slices", None)
        if not isinstance(slices, EncodedSlices):
            raise bad("this needs a model that sees slices", "not_supported")
        return slices

    def prepare(self, index: int) -> bool:
        """Encode a slice that may be asked for; false if it is there, or a click would wait."""
        if self.slices.encode_s > MOST_AHEAD_S or self.slices.holds(index):
            return False
        self.slices.features(index)
        return True

    @property
    def view(self) -> SliceView:
        """The image as the model sees it."""
        return self.slices.view


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What one action did: `box` holds every voxel that changed, None if none did."""

    has_run: bool
    box: Edges | None = None
    content: Bool[np.ndarray, "..."] | None = None


class Annotation:
    """A session whose changes are told box by box, so that a click costs what it touches."""

    def __init__(self, encoded: Encoded, object_id: str, name: str = "object") -> None:
        self.session, self.name = encoded.session(object_id), name
        self._sends_all = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image in array order."""
        return self.session.shape

    @property
    def source(self) -> Volume | Picture:
        """The image."""
        return self.session.source

    @property
    def count(self) -> int:
        """Actions that `undo` could take back."""
        return self.session.interactions

    def add(self, prompt: Prompt, drawn: np.ndarray | None = None) -> None:
        """Take a prompt; nothing is computed before `render`.

        Raises:
            InputError: It cannot be used on this image.
            Refusal: 400; a drawing does not fit its box or the image.
        """
        match prompt:
            case Points():
                self.session.add_points(prompt.points, prompt.labels, space=prompt.space)
            case Box():
                self._check_axes(prompt.box)
                low, high = zip(*prompt.box, strict=True)
                self.session.add_box((low, high), prompt.label)
            case Drawing():
                self._add_drawing(prompt, drawn)
            case Propagate():
                self.session.propagate(start=prompt.start, stop=prompt.stop, hints=prompt.hints)

    def undo(self) -> bool:
        """Take the last action back; false if there is none."""
        before = self.count
        self.session.undo()
        return self.count < before

    def redo(self) -> bool:
        """Bring the last undone action back; false if there is none."""
        before = self.count
        self.session.redo()
        return self.count > before

    def keep(self, count: int) -> None:
        """Drop all but the first actions for good."""
        while self.count > count:
            self.session.undo()

    def send_all(self) -> None:
        """The client starts from an empty mask: the next `render` sends all of it."""
        self._sends_all = True

    def render(self) -> Update:
        """Compute the mask and say where it differs from the last time.

        Raises:
            Cancelled: The task was called off; what was not computed yet is gone.
        """
        self.session.update(progress=pause, cancel=_never)
        changed = self.session.changed_box()
        if self._sends_all:
            self._sends_all = False
            mask = self.mask()
            changed = extent_of(mask) if mask.any() else None
        if changed is None:
            return Update(has_run=True)
        box = tuple(zip(*changed, strict=True))
        return Update(True, box, self.content(box))

    def mask(self) -> Bool[np.ndarray, "..."]:
        """Mask on the grid of the image; empty without prompts."""
        if not self.session.has_prompts:
            return np.zeros(self.shape, dtype=bool)
        return self.session.mask()

    def content(self, box: Edges) -> Bool[np.ndarray, "..."]:
        """Copy of the mask inside a box."""
        return np.array(self.mask()[tuple(slice(*edge) for edge in box)], order="C")

    def around(self, box: Edges) -> list[int]:
        """Slices of the view beside those of a box, the nearest first; none for blocks."""
        engine = self.session._engine
        if not isinstance(engine, SliceEngine):
            return []
        low, high = np.sort(engine.lies_on(np.array(box, dtype=np.float64).T - [[0], [1]]))
        found = [one for step in range(1, AHEAD + 1) for one in (high + step, low - step)]
        return [int(one) for one in found if 0 <= one < engine.slice_count]

    def scores(self) -> dict[str, float]:
        """Predicted IoU by slice of the view."""
        return {str(index): round(iou, 4) for index, iou in self.session.scores().items()}

    def wipe(self) -> None:
        """Forget all prompts and masks."""
        self.session.remove()

    def _add_drawing(self, prompt: Drawing, drawn: np.ndarray | None) -> None:
        if drawn is None:
            raise bad(f"a {prompt.kind} needs an array as the body", "no_array")
        box = self._drawn_box(prompt, drawn)
        values = drawn if drawn.dtype == np.bool_ else drawn != 0
        whole = values
        if values.shape != self.shape:
            whole = np.zeros(self.shape, dtype=bool)
            whole[tuple(slice(*edge) for edge in box)] = values
        if prompt.kind == "mask":
            self.session.add_mask(whole)
        elif not values.any():
            raise bad(f"the {prompt.kind} is empty", "prompt_empty")
        elif prompt.kind == "scribble":
            self.session.add_scribble(whole, prompt.label)
        else:
            self.session.add_lasso(whole, prompt.label)

    def _drawn_box(self, prompt: Drawing, drawn: np.ndarray) -> Edges:
        shape = self.shape
        if prompt.box is None:
            box: Edges = tuple((0, size) for size in shape)
        else:
            self._check_axes(prompt.box)
            if any(low != int(low) or high != int(high) for low, high in prompt.box):
                raise bad("the box of a drawing must hold whole numbers", "prompt_box")
            box = tuple((int(low), int(high)) for low, high in prompt.box)
            inside = (0 <= a < b <= size for (a, b), size in zip(box, shape, strict=True))
            if not all(inside):
                raise bad(f"the box must lie inside the image of shape {shape}", "prompt_outside")
        expected = tuple(high - low for low, high in box)
        if drawn.shape != expected:
            raise bad(f"the array has shape {drawn.shape}, its box {expected}", "prompt_shape")
        if drawn.dtype.kind == "f":
            raise bad("drawings are bool or whole numbers", "prompt_type")
        return box

    def _check_axes(self, box: Sequence[object]) -> None:
        if len(box) != len(self.shape):
            raise bad(
                f"the box must have {len(self.shape)} pairs, one for each axis", "prompt_axes"
            )


def label_map(predictor: Predictor, source: Volume | Picture, task: Task[np.ndarray]) -> np.ndarray:
    """Label map of an automatic model, uint8 on the grid of the source; 0 is background."""
    return predictor.segment(source, progress=task.step, cancel=_never)


def _never() -> bool:
    """`pause` says itself when work is called off."""
    pause()
    return False
