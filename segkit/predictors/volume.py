"""Masks in volumes, read slice by slice or block by block."""

from typing_extensions import override

from segkit.data.objects import Source
from segkit.data.options import ReadOptions
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.predictors.base import Predictor


class VolumePredictor(Predictor):
    """Segment volumes: coordinates are voxel indices (k, j, i) or millimetres.

    A model of slices sees one at a time, by default along the axis of the largest spacing: a point
    prompts its slice, a box each slice it spans, and `Session.propagate` carries masks further. A
    model of blocks sees what lies around the marks in three dimensions.

    Example:
        >>> import numpy as np
        >>> from segkit.geometry import Geometry
        >>> from segkit.models import build
        >>> predictor = VolumePredictor(build.sam_tiny(), device="cpu")
        >>> geometry = Geometry.from_spacing((4, 32, 32), (3.0, 0.8, 0.8))
        >>> session = predictor.open((np.zeros((4, 32, 32), dtype=np.int16), geometry))
        >>> session.add_box(((1, 8, 8), (3, 20, 24))).mask().shape
        (4, 32, 32)
    """

    @override
    def read(self, source: Source, options: ReadOptions | None = None) -> Volume:
        opened = super().read(source, options)
        if isinstance(opened, Picture):
            raise InputError(
                f"got a picture of size {opened.size}, a volume is needed",
                fix="use ImagePredictor",
                path=opened.path,
            )
        return opened
