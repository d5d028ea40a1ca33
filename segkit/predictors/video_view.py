"""Between the pixels of frames and those of the model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segkit.data.preprocess import ChannelKind, InputSpec, Intensity, SliceView
from segkit.data.video import FrameSource
from segkit.data.volume import Picture
from segkit.models.info import ModelInfo
from segkit.models.tracker import ObjectPrompt
from segkit.predictors.marks import Mark
from segkit.predictors.model_marks import by_slice, to_prompts


class FrameView:
    """Frames of one source as model inputs; each is scaled and padded like a single picture."""

    def __init__(self, source: FrameSource, info: ModelInfo | None, image_size: int) -> None:
        self.spec = _spec(source, info, image_size)
        self.size = source.size
        blank = Picture(np.zeros(source.size, np.uint8), spacing_mm=source.spacing_mm)
        # the range of grey values plays no part in the geometry
        self._view = SliceView(blank, replace(self.spec, intensity=_FULL, channels="rgb"))

    def image(self, picture: Picture) -> Float[Tensor, "1 3 size size"]:
        """Model input in [0, 1]."""
        return torch.from_numpy(SliceView(picture, self.spec).image(0))[None]

    def prompt(
        self,
        marks: Sequence[Mark],
        previous: Float[Tensor, "1 rows cols"] | None,
        *,
        sees_memory: bool,
    ) -> ObjectPrompt:
        """Marks in pixels of the frame as a prompt in those of the model."""
        prompts = to_prompts(by_slice(self._view, marks)[0], None)
        return ObjectPrompt(
            prompts.points[0], prompts.labels[0], previous=previous, sees_memory=sees_memory
        )

    def given(self, mask: Bool[np.ndarray, "rows columns"]) -> Bool[Tensor, "size size"]:
        """A mask of the frame in the pixels of the model, nearest."""
        return torch.from_numpy(self._view.label(mask, 0))

    def logits(self, logits: Float[Tensor, "1 rows cols"]) -> Float[np.ndarray, "rows columns"]:
        """Logits of the decoder on the pixels of the frame."""
        return self._view.logits_to_source([logits.float().cpu().numpy()], [0])[0, 0]

    def mask(
        self, logits: Float[Tensor, "1 rows cols"], *, is_seen: bool
    ) -> Bool[np.ndarray, "rows columns"]:
        """Mask on the pixels of the frame; nothing of what is not seen."""
        return self.logits(logits) > 0 if is_seen else np.zeros(self.size, dtype=bool)


_FULL = Intensity("full")


def _spec(source: FrameSource, info: ModelInfo | None, image_size: int) -> InputSpec:
    """Input of the model for single frames: its own windows, else the range of the source."""
    trained = None if info is None else info.input
    size = image_size if trained is None else trained.size
    if trained is not None and trained.intensity.kind == "window":
        channels: ChannelKind = "windows" if trained.channels == "windows" else "rgb"
        return InputSpec(2, size, channels, trained.intensity)
    if (found := source.value_range) is None:
        return InputSpec(2, size, "rgb", _FULL)
    return InputSpec(2, size, "rgb", Intensity("window", windows=(found,)))
