"""Voxel index to millimetres and back, in float64.

Array order is (k, j, i) = (depth, height, width), the last axis fastest; integers are voxel
centres. Only affine matrices keep the file convention: (i, j, k, 1) to (x, y, z, 1) in millimetres,
right-anterior-superior (source: NIfTI-1 header, "method 3").
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Space = Literal["voxel", "ras", "lps"]


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Lattice of a volume: `shape` in array order (k, j, i), `affine` from (i, j, k) to RAS mm.

    `is_known` is false for files that carry no frame; then nothing may be stated in millimetres.
    """

    shape: tuple[int, int, int]
    affine: Float[np.ndarray, "4 4"]
    is_known: bool = True

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along (k, j, i)."""
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)[::-1]
        return (float(steps[0]), float(steps[1]), float(steps[2]))

    def to_world_mm(
        self, index: Float[np.ndarray, "points 3"], space: Space = "ras"
    ) -> Float[np.ndarray, "points 3"]:
        """Map voxel indices (k, j, i) to patient coordinates (x, y, z)."""
        raise NotImplementedError

    def to_index(
        self, points_mm: Float[np.ndarray, "points 3"], space: Space
    ) -> Float[np.ndarray, "points 3"]:
        """Map patient coordinates (x, y, z) to fractional voxel indices (k, j, i)."""
        raise NotImplementedError
