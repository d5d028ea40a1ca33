"""Frames in order, from whatever holds them: one frame in memory at a time.

Videos, folders of pictures or of DICOM files, cine loops, arrays and volumes all become a
`FrameSource`. Frame numbers count from 0; sizes and points are (row, column).
"""

import re
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from typing_extensions import override

from segkit.data.options import ReadOptions
from segkit.data.readers import PICTURE_SUFFIXES, load
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError

_SAMPLES = 2**20  # voxels looked at for the range of grey values
_PERCENTILES = (0.5, 99.5)


class FrameSource(ABC):
    """Frames of one size. `notes` grow while it is read.

    `count` is the number of frames, None while nobody knows; `spacing_mm` is (row, column).
    """

    path: Path | None = None
    count: int | None = None
    size: tuple[int, int] = (0, 0)
    spacing_mm: tuple[float, float] | None = None

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abstractmethod
    def read(self, index: int) -> Picture:
        """Frame `index`.

        Raises:
            EndOfFramesError: There are fewer frames.
            InputError: The frame cannot be read, or has another size than the first.
        """

    def time_s(self, index: int) -> float | None:  # noqa: ARG002 (most sources have no clock)
        """When the frame was taken, in seconds from the first; None if nothing says so."""
        return None

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Grey values that become 0 and 1; None for the full range of 8-bit pixels."""
        return None

    def close(self) -> None:  # noqa: B027 (most sources hold nothing open)
        """Release the file."""

    def _check(self, array: Shaped[np.ndarray, "..."], index: int) -> None:
        found = (array.shape[0], array.shape[1])
        if found != self.size:
            raise InputError(
                f"frame {index} has {found[0]} x {found[1]} pixels (rows x columns), the first "
                f"frame {self.size[0]} x {self.size[1]}",
                fix="split the recording where its size changes; frames before it can be used",
                path=self.path,
                code="frame_size",
            )


class EndOfFramesError(InputError):
    """A frame behind the last one was asked for."""

    def __init__(self, index: int, source: FrameSource) -> None:
        last = (source.count or 0) - 1
        state = (
            f"the sequence has {last + 1} frames" if last >= 0 else "no frame has been pushed yet"
        )
        super().__init__(
            f"there is no frame {index}: {state}",
            fix=f"frames are numbered 0 to {last}" if last >= 0 else "push one first",
            path=source.path,
            code="no_frame",
        )


class ArrayFrames(FrameSource):
    """Grey (t, h, w) or colour (t, h, w, 3) frames in memory."""

    def __init__(self, array: Shaped[np.ndarray, "..."]) -> None:
        super().__init__()
        is_colour = array.ndim == 4 and array.shape[3] == 3
        if array.ndim not in (3, 4) or (array.ndim == 4 and not is_colour) or 0 in array.shape:
            raise InputError(
                f"an array of shape {array.shape} is no sequence of frames",
                fix="give grey frames (t, h, w) or colour frames (t, h, w, 3)",
            )
        self.array, self.count = array, len(array)
        self.size = (array.shape[1], array.shape[2])

    @override
    def read(self, index: int) -> Picture:
        if not 0 <= index < len(self.array):
            raise EndOfFramesError(index, self)
        return Picture(self.array[index], self.path, self.spacing_mm)

    @property
    @override
    def value_range(self) -> tuple[float, float] | None:
        return None if self.array.dtype == np.uint8 else range_of(self.array)


class VolumeFrames(ArrayFrames):
    """Slices of a volume along one of its axes: 0 (k), 1 (j) or 2 (i), as stored."""

    def __init__(self, volume: Volume, axis: int | None = None) -> None:
        steps = volume.geometry.spacing_mm
        chosen = int(np.argmax(steps)) if axis is None else axis
        if chosen not in (0, 1, 2):
            raise InputError(
                f"axis {axis} does not exist", fix="give 0 (k), 1 (j) or 2 (i)", code="axis"
            )
        super().__init__(np.moveaxis(volume.array, chosen, 0))
        self.volume, self.axis, self.path = volume, chosen, volume.path
        self.notes.extend(volume.notes)
        if volume.geometry.is_known:
            row, column = (step for place, step in enumerate(steps) if place != chosen)
            self.spacing_mm = (row, column)


class FolderFrames(FrameSource):
    """Pictures of a folder in the order of the numbers in their names."""

    def __init__(self, folder: Path, options: ReadOptions | None = None) -> None:
        super().__init__()
        self.path, self.options = folder, options
        names = [one for one in folder.iterdir() if one.suffix.lower() in PICTURE_SUFFIXES]
        self.files = sorted(names, key=lambda one: natural(one.name))
        if not self.files:
            raise InputError(
                "holds no picture",
                fix=f"give a folder of {', '.join(PICTURE_SUFFIXES)} files, one per frame",
                path=folder,
            )
        self.count = len(self.files)
        first = self._load(0)
        self.size, self.spacing_mm = first.size, first.spacing_mm
        self._range = None if first.array.dtype == np.uint8 else range_of(first.array[None])

    @override
    def read(self, index: int) -> Picture:
        if not 0 <= index < len(self.files):
            raise EndOfFramesError(index, self)
        picture = self._load(index)
        self._check(picture.array, index)
        return picture

    @property
    @override
    def value_range(self) -> tuple[float, float] | None:
        return self._range

    def _load(self, index: int) -> Picture:
        picture = load(self.files[index], self.options)
        assert isinstance(picture, Picture)
        return picture


def natural(name: str) -> tuple[object, ...]:
    """Sort key that takes numbers in names as numbers: frame 10 comes after frame 9."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def range_of(frames: Shaped[np.ndarray, "..."]) -> tuple[float, float]:
    """Percentiles of a regular sample of the frames."""
    step = max(1, round((frames.size / _SAMPLES) ** (1 / 3)))
    sample = frames[::step, ::step, ::step]
    low, high = np.percentile(sample, _PERCENTILES)
    if not np.isfinite([low, high]).all():
        raise InputError("frames hold NaN or Inf", fix="replace them before tracking")
    return (float(low), float(max(high, low + 1e-6)))
