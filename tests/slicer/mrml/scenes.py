"""Volumes, segments and markups for the tests."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from SegKitLib.marks import Target
from SegKitLib.workbench import Workbench

SHAPE = (12, 40, 48)
BLOCK = (slice(3, 9), slice(12, 28), slice(14, 34))
INSIDE = (6, 20, 24)

ANISOTROPIC = np.diag([0.7, 1.1, 4.0, 1.0])
OBLIQUE = np.array([[-0.8, 0.1, 0.2, 33], [0.15, -1.0, 0.4, -21], [0.1, 0.2, 3.0, 7], [0, 0, 0, 1]])
LEFT_HANDED = np.array([[0, 0, 3.0, 1], [0.9, 0, 0, 2], [0, 0.8, 0, 3], [0, 0, 0, 1.0]])
FRAMES = {"anisotropic": ANISOTROPIC, "oblique": OBLIQUE, "permuted": LEFT_HANDED}


def volume(affine: np.ndarray = OBLIQUE, *, is_moved: bool = False) -> Any:
    """A bright block in noise, under a transform if asked for."""
    voxels = np.random.default_rng(0).integers(0, 100, size=SHAPE, dtype=np.int16)
    voxels[BLOCK] += 900
    node = slicer.util.addVolumeFromArray(voxels, ijkToRAS=affine, name="block")
    if is_moved:
        matrix = vtk.vtkTransform()
        matrix.Translate(30, -12, 8)
        matrix.RotateWXYZ(25, 1, 2, 3)
        matrix.Scale(1.1, 0.9, 1.0)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(matrix.GetMatrix())
        node.SetAndObserveTransformNodeID(transform.GetID())
    return node


def to_world(node: Any, index: tuple[float, float, float]) -> np.ndarray:
    """World position of a voxel (k, j, i), by VTK's own arithmetic."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    local = matrix.MultiplyPoint((*index[::-1], 1.0))[:3]
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld(local, world)
    return np.array(world)


def markups(node: Any, kind: str, indices: list[tuple[float, float, float]]) -> Any:
    """A markups node whose control points lie on voxels of a volume."""
    placed = slicer.mrmlScene.AddNewNodeByClass(f"vtkMRMLMarkups{kind}Node")
    if kind in ("Curve", "ClosedCurve"):
        placed.SetCurveTypeToLinear()
    for index in indices:
        placed.AddControlPointWorld(*to_world(node, index))
    return placed


@dataclass
class Case:
    """A workbench with one volume and segments on it."""

    bench: Workbench
    node: Any
    segmentation: str

    def target(self, name: str) -> Target:
        """A new segment."""
        segment = self.bench.scene.add_segment(self.segmentation, name)
        return Target(self.node.GetID(), self.segmentation, segment)

    def settle(self) -> None:
        """Wait for everything under way."""
        assert self.bench.wait(120)
        assert not self.bench.controller.is_error, self.bench.controller.message

    def array(self, target: Target) -> np.ndarray:
        """The segment as Slicer itself gives it on the grid of the volume."""
        node = slicer.mrmlScene.GetNodeByID(target.segmentation)
        found = slicer.util.arrayFromSegmentBinaryLabelmap(node, target.segment, self.node)
        return found.astype(bool)


def case(node: Any, **options: Any) -> Case:
    """Workbench, and a new segmentation for a volume."""
    bench = Workbench(slicer.mrmlScene, **options)
    return Case(bench, node, bench.scene.segmentation_of(node.GetID()))
