"""Voxel indices and millimetres, for clients without segkit's own geometry.

Arrays and tuples are in array order (k, j, i); affines map (i, j, k, 1) to (x, y, z, 1) in
millimetres, right-anterior-superior.
"""

from collections.abc import Sequence

import numpy as np

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_from_spacing(spacing_mm: Sequence[float]) -> np.ndarray:
    """Axis-aligned affine for spacings in array order (k, j, i)."""
    return np.diag([*list(spacing_mm)[::-1], 1.0]).astype(np.float64)


def ras_to_index(points_mm: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Map points (x, y, z) in RAS millimetres to fractional voxel indices (k, j, i)."""
    points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3)
    matrix = np.asarray(affine, dtype=np.float64)
    return np.linalg.solve(matrix[:3, :3], (points - matrix[:3, 3]).T).T[:, ::-1]


def index_to_ras(index: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Map voxel indices (k, j, i) to points (x, y, z) in RAS millimetres."""
    matrix = np.asarray(affine, dtype=np.float64)
    points = np.asarray(index, dtype=np.float64).reshape(-1, 3)[:, ::-1]
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def lps_affine_to_ras(affine: np.ndarray) -> np.ndarray:
    """Affine to LPS millimetres (DICOM, ITK) as one to RAS."""
    return RAS_TO_LPS @ np.asarray(affine, dtype=np.float64)
