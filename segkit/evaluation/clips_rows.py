"""What is compared on clips: trackers, the first mask kept as it is, and slices on their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segkit.errors import InputError
from segkit.evaluation.clips import Masks, Recording
from segkit.memory import MemoryBank
from segkit.models.segmenter import Segmenter
from segkit.models.tracker import ObjectPrompt, Tracker
from segkit.prompts.simulate import box_from_mask, first_click
from segkit.typing import PADDING, Prompts

Mark = Literal["box", "mask", "click"]
MARKS: dict[Mark, str] = {
    "box": "oracle box on the first frame",
    "mask": "oracle mask on the first frame",
    "click": "oracle click on the first frame",
}
Follow = Callable[[Recording], Masks]
Plane = Bool[np.ndarray, "rows cols"]


def classes_of(recording: Recording) -> list[int]:
    """Classes that the first frame shows."""
    return [int(value) for value in np.unique(recording.reference[0]) if value > 0]


def copy_first(recording: Recording) -> Masks:
    """The reference of the first frame, on every frame: what a still object would need."""
    return np.repeat(recording.reference[:1], len(recording), axis=0)


def copy_ellipse(recording: Recording) -> Masks:
    """The ellipse in the first frame's box, on every frame: what the box alone gives away."""
    first = np.zeros_like(recording.reference[0])
    rows, cols = np.mgrid[: first.shape[0], : first.shape[1]]
    for value in classes_of(recording):
        top, left, bottom, right = _box(recording.reference[0] == value)
        height, width = bottom - top + 1, right - left + 1
        y = (rows - (top + bottom) / 2) / (height / 2)
        x = (cols - (left + right) / 2) / (width / 2)
        first[y * y + x * x <= 1] = value
    return np.repeat(first[None], len(recording), axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class Tracked:
    """A tracker that is shown the objects of the first frame once.

    Each class is one object. `mark` says how it is shown: all three come from the reference.
    """

    tracker: Tracker
    mark: Mark = "box"

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise InputError(f"mark must be one of {get_args(Mark)}, got {self.mark!r}")

    @torch.inference_mode()
    def __call__(self, recording: Recording) -> Masks:
        """Masks of all frames, by class."""
        prompts = {
            value: _prompt(_to_model(recording, recording.reference[0] == value), self.mark)
            for value in classes_of(recording)
        }
        out, bank = np.zeros_like(recording.reference), MemoryBank()
        for index in range(len(recording)):
            image = torch.from_numpy(recording.image(index))[None].to(self.tracker.device)
            features = self.tracker.encode(image)
            found, bank = self.tracker.step(features, None if index else prompts, bank)
            _paint(out[index], recording.to_frame(found.logits[:, 0].cpu().numpy(), index), prompts)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Sliced:
    """A model without memory: every frame alone, with a box.

    `boxes`: "oracle" takes the box of each frame from its reference, "propagated" that of the mask
    found on the frame before, widened by `margin` of its sides; the first is always the oracle's.
    """

    segmenter: Segmenter
    boxes: Literal["oracle", "propagated"] = "propagated"
    margin: float = 0.1

    @torch.inference_mode()
    def __call__(self, recording: Recording) -> Masks:
        """Masks of all frames, by class."""
        out = np.zeros_like(recording.reference)
        last = {value: recording.reference[0] == value for value in classes_of(recording)}
        for index in range(len(recording)):
            image = torch.from_numpy(recording.image(index))[None].to(self.segmenter.device)
            features = self.segmenter.encode(image)
            for value, before in last.items():
                is_oracle = index == 0 or self.boxes == "oracle"
                guide = recording.reference[index] == value if is_oracle else before
                if not guide.any():
                    continue
                margin = 0.0 if is_oracle else self.margin
                prompts = _boxed(_to_model(recording, guide), margin).to(self.segmenter.device)
                logits = self.segmenter.decode(features, prompts).logits[0].cpu().numpy()
                found = recording.to_frame(logits, index)[0] > 0
                out[index][found] = value
                last[value] = found
        return out


def _to_model(recording: Recording, mask: Plane) -> Bool[Tensor, "size size"]:
    """A mask in the pixels of the first frame, nearest, in those of the model input."""
    view = recording.views[0]
    (rows, columns), (height, width) = mask.shape, view.content_size
    row = ((np.arange(height) + 0.5) * rows / height).astype(int)
    column = ((np.arange(width) + 0.5) * columns / width).astype(int)
    out = np.zeros((view.spec.size, view.spec.size), dtype=bool)
    out[:height, :width] = mask[np.ix_(row, column)]
    return torch.from_numpy(out)


def _prompt(mask: Bool[Tensor, "size size"], mark: Mark) -> ObjectPrompt:
    if mark == "mask":
        return ObjectPrompt(mask=mask)
    rng = torch.Generator().manual_seed(0)
    deepest = first_click(mask[None], rng, place="deepest") if mark == "click" else None
    marks = box_from_mask(mask[None]) if deepest is None else deepest
    counts = marks.labels[0] != PADDING
    return ObjectPrompt(marks.points[0][counts], marks.labels[0][counts])


def _boxed(mask: Bool[Tensor, "size size"], margin: float) -> Prompts:
    box = box_from_mask(mask[None])
    if not margin or not mask.any():
        return box
    side = box.points[0, 1] - box.points[0, 0] + 1
    moved = torch.stack([box.points[0, 0] - margin * side, box.points[0, 1] + margin * side])
    return Prompts(moved.clamp(0, mask.shape[0] - 1)[None], box.labels)


def _box(mask: Plane) -> tuple[int, int, int, int]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(cols[0]), int(rows[-1]), int(cols[-1])


def _paint(
    out: np.ndarray, logits: Float[np.ndarray, "objects rows cols"], values: dict[int, ObjectPrompt]
) -> None:
    """Give each pixel to the object with the highest logit above 0, in place."""
    best = np.zeros(out.shape, np.float32)
    for value, one in zip(values, logits, strict=True):
        wins = one > best
        out[wins] = value
        best[wins] = one[wins]
