"""DICOM cine: a multi-frame file, or a folder with one file per time point of one place."""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from pydicom.dataset import FileDataset
from pydicom.pixels import iter_pixels
from typing_extensions import override

from segkit.data.dicom_file import read_dataset, refuse_damage
from segkit.data.dicom_frames import Frame, is_image_class, read_frames
from segkit.data.dicom_pixels import decode_file
from segkit.data.dicom_scan import walk
from segkit.data.video import EndOfFramesError, FrameSource, range_of
from segkit.data.volume import Picture
from segkit.errors import InputError

_CM = 3  # code of centimetres in PhysicalUnitsXDirection
_MM_PER_CM = 10.0


class CineFile(FrameSource):
    """Frames of one multi-frame file, decoded one at a time; colours stay.

    Pixel spacing comes from PixelSpacing or, in ultrasound, from the first calibrated region.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._dataset, _ = read_dataset(path, pixels=True)
        with refuse_damage(path):
            self.count = int(self._dataset.get("NumberOfFrames") or 1)
            self.size = (int(self._dataset.Rows), int(self._dataset.Columns))
            self.spacing_mm = _spacing_mm(self._dataset)
            self._times_s = _times_s(self._dataset, self.count)
        first = self._decode(0)
        self._range = None if first.dtype == np.uint8 else range_of(first[None])

    @override
    def read(self, index: int) -> Picture:
        if not 0 <= index < (self.count or 0):
            raise EndOfFramesError(index, self)
        array = self._decode(index)
        self._check(array, index)
        return Picture(array, self.path, self.spacing_mm)

    @override
    def time_s(self, index: int) -> float | None:
        return None if self._times_s is None else self._times_s[index]

    @property
    @override
    def value_range(self) -> tuple[float, float] | None:
        return self._range

    def _decode(self, index: int) -> Shaped[np.ndarray, "..."]:
        assert self.path is not None
        with refuse_damage(self.path):
            return next(iter(iter_pixels(self._dataset, indices=[index])))


class CineFolder(FrameSource):
    """One file per frame, in the order of their instance numbers; grey pixels."""

    def __init__(self, folder: Path, frames: list[Frame]) -> None:
        super().__init__()
        self.path, self.count = folder, len(frames)
        self._frames = sorted(frames, key=lambda frame: frame.number)
        first = self._frames[0]
        self.size, self.spacing_mm = (first.encoding.rows, first.encoding.columns), first.spacing_mm
        self._range = range_of(self._decode(0)[None])

    @override
    def read(self, index: int) -> Picture:
        if not 0 <= index < len(self._frames):
            raise EndOfFramesError(index, self)
        array = self._decode(index)
        self._check(array, index)
        return Picture(array, self.path, self.spacing_mm)

    @property
    @override
    def value_range(self) -> tuple[float, float] | None:
        return self._range

    def _decode(self, index: int) -> Shaped[np.ndarray, "rows columns"]:
        frame = self._frames[index]
        (pixels,) = decode_file(frame.path, [frame])
        return pixels


def cine_of(path: Path) -> FrameSource | None:
    """Cine behind a DICOM file or folder; None for a volume, whose slices have places of their own.

    Raises:
        InputError: The file is damaged or holds no image.
    """
    if not path.is_dir():
        frames = read_frames(path)
        if not frames or not is_image_class(frames[0].sop_class):
            raise InputError("is a DICOM object without image frames", path=path, code="no_slices")
        is_placed = len(frames) > 1 and len({frame.position_mm for frame in frames}) > 1
        return None if is_placed else CineFile(path)
    frames = [frame for file in walk(path) for frame in _frames_in(file)]
    places = {frame.position_mm for frame in frames}
    if len(frames) == 1:
        return CineFile(Path(frames[0].path))
    return CineFolder(path, frames) if frames and len(places) == 1 else None


def _frames_in(path: Path) -> list[Frame]:
    try:
        return [frame for frame in read_frames(path) if is_image_class(frame.sop_class)]
    except InputError as error:
        if error.code == "not_dicom":
            return []
        raise


def _spacing_mm(dataset: FileDataset) -> tuple[float, float] | None:
    if values := dataset.get("PixelSpacing"):
        return (float(values[0]), float(values[1]))
    for region in dataset.get("SequenceOfUltrasoundRegions") or ():
        units = (region.get("PhysicalUnitsYDirection"), region.get("PhysicalUnitsXDirection"))
        if units == (_CM, _CM):
            return (
                abs(float(region.PhysicalDeltaY)) * _MM_PER_CM,
                abs(float(region.PhysicalDeltaX)) * _MM_PER_CM,
            )
    return None


def _times_s(dataset: FileDataset, count: int) -> list[float] | None:
    """Times of the frames, from their intervals in ms or from a rate."""
    if (vector := dataset.get("FrameTimeVector")) is not None and len(vector) == count:
        return [float(time) / 1000 for time in np.cumsum([float(step) for step in vector])]
    step_ms = dataset.get("FrameTime")
    if step_ms is None and (rate := dataset.get("CineRate")):
        step_ms = 1000 / float(rate)
    return None if step_ms is None else [index * float(step_ms) / 1000 for index in range(count)]
