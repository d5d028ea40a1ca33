"""A volume or an image in memory, with everything needed to write a mask back onto its grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Shaped

from segkit.geometry import Geometry


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Scalar voxels in array order (k, j, i) on a `geometry`.

    `header` holds what a writer copies (form codes, units, DICOM references), `notes` the warnings
    of the reader, `labels` names by value if the file carries them.
    """

    array: Shaped[np.ndarray, "k j i"]
    geometry: Geometry
    path: Path | None = None
    labels: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    header: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A two-dimensional image, grey `(h, w)` or colour `(h, w, 3)`; index order (row, column).

    `spacing_mm` is (row, column) or unknown.
    """

    array: Shaped[np.ndarray, "..."]
    path: Path | None = None
    spacing_mm: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (self.array.shape[0], self.array.shape[1])
