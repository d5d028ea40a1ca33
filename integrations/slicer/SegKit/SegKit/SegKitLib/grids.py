"""Frames of volumes and labelmaps, and whether they are the same grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk

from .marks import SceneError

SAME_VOXEL = 1e-3
"""Two frames are one grid if their voxels lie closer than this part of a voxel."""


@dataclass(frozen=True, eq=False)
class Frame:
    """How segments are stored: IJK to RAS, and the stored index (k, j, i) of voxel (0, 0, 0)."""

    matrix: np.ndarray
    shift: tuple[int, ...]


def matrix_of(volume: Any) -> np.ndarray:
    """IJK to RAS matrix of a volume, without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def labelmaps(node: Any) -> Iterator[Any]:
    """Labelmaps of all segments that have voxels; shared ones come several times."""
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        labelmap = node.GetBinaryLabelmapInternalRepresentation(segmentation.GetNthSegmentID(index))
        if is_filled(labelmap):
            yield labelmap


def is_filled(labelmap: Any) -> bool:
    """Whether there is a labelmap with room for voxels."""
    return labelmap is not None and labelmap.GetNumberOfPoints() > 0


def cropped(held: np.ndarray, first: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Smallest box with all true voxels, and its first index."""
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(held.any(axis=others))
        slices.append(slice(int(found[0]), int(found[-1]) + 1))
    start = tuple(low + one.start for low, one in zip(first, slices, strict=True))
    return held[tuple(slices)], start


def frame_of(volume: Any, node: Any) -> Frame:
    """Frame in which segments are stored, if it is the grid of the volume.

    Raises:
        SceneError: It is another grid.
    """
    grid = matrix_of(volume)
    for labelmap in labelmaps(node):
        stored = vtk.vtkMatrix4x4()
        labelmap.GetImageToWorldMatrix(stored)
        matrix = slicer.util.arrayFromVTKMatrix(stored)
        # where the volume's voxels lie among the stored ones, (i, j, k)
        between = np.linalg.solve(matrix, grid)
        shift = np.rint(between[:3, 3])
        turn = np.abs(between[:3, :3] - np.eye(3)) @ np.array(volume.GetImageData().GetDimensions())
        if max(np.abs(between[:3, 3] - shift).max(), turn.max()) > SAME_VOXEL:
            raise SceneError(
                f"segmentation {node.GetName()} has another grid than volume {volume.GetName()}; "
                "choose a new segmentation for this volume"
            )
        return Frame(matrix, tuple(int(by) for by in shift[::-1]))
    return Frame(grid, (0, 0, 0))
