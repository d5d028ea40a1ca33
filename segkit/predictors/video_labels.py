"""Objects that were followed through the slices of a volume, as one label map on its grid."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from segkit.data.video import FrameSource, VolumeFrames
from segkit.data.writers import VOLUME_SUFFIXES, save
from segkit.errors import InputError
from segkit.predictors.video_masks import FrameMasks


class VolumeLabels:
    """Label map of a volume; voxels hold the numbers of objects, the higher one where they overlap.

    Slices without masks stay 0. The file appears when the block ends without an error.

    Raises:
        InputError: The source is no volume; or an object has the number 0, which is background.
    """

    def __init__(self, path: Path, source: FrameSource) -> None:
        if not isinstance(source, VolumeFrames):
            raise InputError(
                f"{path.name} is a file for volumes, and this is a recording",
                path=source.path,
                fix="-o out.mp4 or -o out/",
            )
        self.path, self._source = path, source
        self._labels = np.zeros((source.count or 0, *source.size), dtype=np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            labels = np.moveaxis(self._labels, 0, self._source.axis)
            save(self.path, np.ascontiguousarray(labels), self._source.volume)

    def write(self, found: FrameMasks) -> None:
        """Add a slice."""
        numbers = sorted(found.masks)
        if numbers and (numbers[0] < 1 or numbers[-1] > np.iinfo(np.uint8).max):
            raise InputError(
                f"objects {numbers} cannot be voxel values of a label map",
                fix="number objects from 1 to 255",
            )
        for number in numbers:
            self._labels[found.frame][found.masks[number]] = number


def is_volume_file(path: Path) -> bool:
    """Whether a name is that of a file for volumes."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)
