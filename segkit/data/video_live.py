"""Frames that arrive one by one, of which only the latest are kept."""

from collections import OrderedDict

import numpy as np
from jaxtyping import Shaped
from typing_extensions import override

from segkit.data.video import EndOfFramesError, FrameSource, range_of
from segkit.data.volume import Picture
from segkit.errors import InputError


class LiveFrames(FrameSource):
    """Source that is pushed to; the latest `kept` frames can be read again."""

    def __init__(self, *, spacing_mm: tuple[float, float] | None = None, kept: int = 8) -> None:
        super().__init__()
        self.count, self.spacing_mm, self._kept = 0, spacing_mm, kept
        self._recent: OrderedDict[int, Picture] = OrderedDict()
        self._times_s: dict[int, float] = {}
        self._range: tuple[float, float] | None = None

    def push(self, frame: Shaped[np.ndarray, "..."], time_s: float | None = None) -> int:
        """Take the next frame, grey (h, w) or colour (h, w, 3), and return its number.

        The range of grey values of frames with more than 8 bits is that of the first.

        Raises:
            InputError: Not an image, or of another size than the first.
        """
        if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] != 3) or not frame.size:
            raise InputError(
                f"an array of shape {frame.shape} is no frame",
                fix="push grey (h, w) or colour (h, w, 3) frames",
                code="no_frame",
            )
        index = self.count or 0
        if index == 0:
            self.size = (frame.shape[0], frame.shape[1])
            self._range = None if frame.dtype == np.uint8 else range_of(frame[None])
        self._check(frame, index)
        self._recent[index] = Picture(np.array(frame), None, self.spacing_mm)
        if time_s is not None:
            self._times_s[index] = time_s
        while len(self._recent) > self._kept:
            dropped, _ = self._recent.popitem(last=False)
            self._times_s.pop(dropped, None)
        self.count = index + 1
        return index

    @override
    def read(self, index: int) -> Picture:
        if not 0 <= index < (self.count or 0):
            raise EndOfFramesError(index, self)
        if index not in self._recent:
            raise InputError(
                f"frame {index} of the live sequence is no longer kept",
                fix=f"mark one of the latest: {min(self._recent)} to {max(self._recent)}",
                code="frame_gone",
            )
        return self._recent[index]

    @override
    def time_s(self, index: int) -> float | None:
        return self._times_s.get(index)

    @property
    @override
    def value_range(self) -> tuple[float, float] | None:
        return self._range
