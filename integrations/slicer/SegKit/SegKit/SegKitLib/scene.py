"""Read from and write to MRML; no Qt, so that it runs wherever MRML does.

Arrays and indices are in array order (k, j, i); IJK matrices of MRML map (i, j, k) to RAS
millimetres of the volume's own space, that is before its parent transform.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from .grids import Frame, cropped, frame_of, is_filled, labelmaps, matrix_of
from .marks import Edges, SceneError, Target

OVERWRITE = {
    "none": slicer.vtkMRMLSegmentEditorNode.OverwriteNone,
    "visible": slicer.vtkMRMLSegmentEditorNode.OverwriteVisibleSegments,
    "all": slicer.vtkMRMLSegmentEditorNode.OverwriteAllSegments,
}
"""What happens to other segments where the edited one grows; with "none" they may overlap."""
UNDO_STATES = 20
_EDITOR_NODE = "vtkMRMLSegmentEditorNode"


@dataclass(frozen=True, eq=False)
class VolumeImage:
    """Voxels of a volume (k, j, i), not copied, and its IJK to RAS matrix.

    The array keeps the memory of the volume, also when the node is deleted. Should voxels change
    while they are sent, `Scene.volume_stamp` changes too, and they are sent anew.
    """

    array: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True, eq=False)
class Voxels:
    """Labelmap that a segment lies in, as the voxels of one `value`.

    `first` is where it starts on the grid of the volume (k, j, i), `mtime` when it last changed.
    """

    array: np.ndarray
    value: int
    first: tuple[int, ...]
    mtime: int


class Scene:
    """Volumes, markups and segments of one MRML scene.

    Segments change through the logic of the Segment Editor only: it keeps neighbours, honours the
    editable area chosen there, lets labelmaps grow, and records states for undo.
    """

    def __init__(self, mrml: Any) -> None:
        self._mrml = mrml
        self.overwrite = "none"
        self.reopen()

    def reopen(self) -> None:
        """Start anew, as after the scene was closed."""
        self._node = self._mrml.AddNewNodeByClass(_EDITOR_NODE, "SegKit")
        self._node.SetHideFromEditors(True)
        self._node.SetSaveWithScene(False)
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._logic.SetMRMLScene(self._mrml)
        self._logic.SetSegmentEditorNode(self._node)
        self._logic.SetMaximumNumberOfUndoStates(UNDO_STATES)
        self._saved: list[tuple[Target, ...]] = []
        self._stamps: dict[Target, tuple[object, tuple[int, int]]] = {}

    def shape(self, volume_id: str) -> tuple[int, int, int]:
        """Shape (k, j, i) of a volume."""
        i, j, k = self._volume(volume_id).GetImageData().GetDimensions()
        return k, j, i

    def image(self, volume_id: str) -> VolumeImage:
        """Voxels and frame of a volume.

        Raises:
            SceneError: The volume has colours or other vectors.
        """
        volume = self._volume(volume_id)
        if volume.GetImageData().GetNumberOfScalarComponents() != 1:
            raise SceneError(
                f"volume {volume.GetName()} has several values for each voxel; make a scalar "
                "volume of it with the module Vector to Scalar Volume"
            )
        array = numpy_support.vtk_to_numpy(volume.GetImageData().GetPointData().GetScalars())
        return VolumeImage(array.reshape(self.shape(volume_id)), matrix_of(volume))

    def volume_stamp(self, volume_id: str) -> tuple[object, ...]:
        """Changes when the voxels or the frame do, not when the volume is moved as a whole."""
        volume = self._volume(volume_id)
        return volume_id, volume.GetImageData().GetMTime(), matrix_of(volume).tobytes()

    def to_voxels(self, volume_id: str, points_ras: np.ndarray) -> np.ndarray:
        """Voxel positions (k, j, i), not rounded, of points in RAS millimetres of the world."""
        volume = self._volume(volume_id)
        to_local = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
            None, volume.GetParentTransformNode(), to_local
        )
        points = np.asarray(points_ras, np.float64).reshape(-1, 3)
        local = np.array([to_local.TransformPoint(point) for point in points]).reshape(-1, 3)
        affine = matrix_of(volume)
        return np.linalg.solve(affine[:3, :3], (local - affine[:3, 3]).T).T[:, ::-1]

    def control_points(self, markups: Any) -> np.ndarray:
        """Placed control points of a markups node [n 3], RAS millimetres of the world."""
        place = [0.0, 0.0, 0.0]
        found = []
        for index in range(markups.GetNumberOfControlPoints()):
            state = markups.GetNthControlPointPositionStatus(index)
            if state == slicer.vtkMRMLMarkupsNode.PositionDefined:
                markups.GetNthControlPointPositionWorld(index, place)
                found.append(tuple(place))
        return np.array(found, np.float64).reshape(-1, 3)

    def curve_points(self, curve: Any) -> np.ndarray:
        """Points along a curve node as it is shown [n 3], RAS millimetres of the world."""
        points = curve.GetCurvePointsWorld()
        if points is None or points.GetNumberOfPoints() == 0:
            return np.zeros((0, 3))
        return numpy_support.vtk_to_numpy(points.GetData()).astype(np.float64)

    def segmentation_of(self, volume_id: str, segmentation_id: str = "") -> str:
        """The given segmentation, or a new one on the grid and under the transform of a volume."""
        if segmentation_id and self._mrml.GetNodeByID(segmentation_id) is not None:
            return segmentation_id
        volume = self._volume(volume_id)
        name = f"{volume.GetName()} segmentation"
        node = self._mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        # in this order: the reference geometry is that of the volume seen from the segmentation
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        return str(node.GetID())

    def add_segment(self, segmentation_id: str, name: str = "") -> str:
        """Add an empty segment; gives its id."""
        segmentation = self._segmentation(segmentation_id).GetSegmentation()
        return str(segmentation.AddEmptySegment("", name))

    def prepare(self, target: Target) -> None:
        """Make a segmentation ready to be written on the grid of a volume.

        Raises:
            SceneError: A node is gone, or the segmentation has another transform or grid.
        """
        volume, node = self._volume(target.volume), self._segmentation(target.segmentation)
        segmentation = node.GetSegmentation()
        if segmentation.GetSegment(target.segment) is None:
            raise SceneError("the segment was deleted; choose or add another one")
        binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        if segmentation.GetSourceRepresentationName() != binary:
            if segmentation.ContainsRepresentation(binary) or not self._has_content(node):
                segmentation.SetSourceRepresentationName(binary)
            else:
                raise SceneError(
                    f"segmentation {node.GetName()} consists of surfaces; make its binary labelmap "
                    "the source representation in the module Segmentations"
                )
        if node.GetTransformNodeID() != volume.GetTransformNodeID():
            if self._has_content(node):
                raise SceneError(
                    f"segmentation {node.GetName()} and volume {volume.GetName()} are under "
                    "different transforms; put both under the same one in the module Transforms"
                )
            node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        if not self._has_content(node):
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        self._frame(target)

    def mask(self, target: Target) -> np.ndarray:
        """Segment as a bool array on the grid of the volume."""
        shape = self.shape(target.volume)
        return self._content(target, tuple((0, size) for size in shape))

    def stamp(self, target: Target) -> tuple[int, int]:
        """Changes when the voxels of a segment do, whatever happens to others in its labelmap."""
        found = self._voxels(target)
        if found is None:
            return 0, 0
        state = (found.mtime, found.value, found.first)
        known = self._stamps.get(target)
        if known is None or known[0] != state:
            known = self._stamps[target] = state, _stamp_of(found)
        return known[1]

    def write(self, target: Target, edges: Edges, content: np.ndarray) -> bool:
        """Make a segment equal to `content` inside a box; say whether anything had to change.

        Where masking of the Segment Editor forbids it, voxels stay as they are.

        Raises:
            SceneError: See `prepare`.
        """
        return self._write_all([(target, edges, content)])

    def write_labels(
        self, volume_id: str, segmentation_id: str, labels: np.ndarray, names: Mapping[int, str]
    ) -> list[str]:
        """Add a segment for each value of a label map that occurs; gives their ids.

        All of them are one step of undo.
        """
        segmentation = self._segmentation(segmentation_id).GetSegmentation()
        changes, added = [], []
        for value in (int(found) for found in np.unique(labels) if found != 0):
            segment = segmentation.AddEmptySegment("", names.get(value, f"label {value}"))
            target = Target(volume_id, segmentation_id, segment)
            self.prepare(target)
            held, first = cropped(labels == value, (0, 0, 0))
            last = np.add(first, held.shape)
            edges = tuple((int(a), int(b)) for a, b in zip(first, last, strict=True))
            changes.append((target, edges, held))
            added.append(segment)
        self._write_all(changes)
        return added

    def restore(self, target: Target) -> bool:
        """Take the last write back with the editor's undo, if it was to this segment alone.

        Neighbours that it overwrote come back too.
        """
        if not self._saved or self._saved[-1] != (target,) or not self._select(target):
            return False
        self._saved.pop()
        self._logic.Undo()
        return True

    def close(self) -> None:
        """Remove what was added to the scene."""
        self._logic.SetSegmentEditorNode(None)
        self._mrml.RemoveNode(self._node)

    def _write_all(self, changes: list[tuple[Target, Edges, np.ndarray]]) -> bool:
        parts = []
        for target, edges, content in changes:
            before = self._content(target, edges)
            gained, lost = content & ~before, before & ~content
            if gained.any() or lost.any():
                parts.append((target, edges, gained, lost))
        if not parts:
            return False
        self._select(parts[0][0])
        self._logic.SaveStateForUndo()
        self._saved = [*self._saved, tuple(part[0] for part in parts)][-UNDO_STATES:]
        for target, edges, gained, lost in parts:
            self._node.SetSelectedSegmentID(target.segment)
            frame = self._frame(target)
            for voxels, mode in (
                (gained, self._logic.ModificationModeAdd),
                (lost, self._logic.ModificationModeRemove),
            ):
                if voxels.any():
                    self._modify(target, frame, edges, voxels, mode)
        return True

    def _modify(
        self, target: Target, frame: Frame, edges: Edges, voxels: np.ndarray, mode: int
    ) -> None:
        extent = [
            bound
            for (low, high), shift in zip(edges[::-1], frame.shift[::-1], strict=True)
            for bound in (low + shift, high - 1 + shift)
        ]
        image = slicer.vtkOrientedImageData()
        image.SetExtent(extent)
        scalars = numpy_support.numpy_to_vtk(
            np.ascontiguousarray(voxels, np.uint8).ravel(), deep=True
        )
        image.GetPointData().SetScalars(scalars)
        image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(frame.matrix))
        node = self._segmentation(target.segmentation)
        is_per_segment, bypasses_masking = True, False
        self._logic.ModifySegmentByLabelmap(
            node, target.segment, image, mode, extent, is_per_segment, bypasses_masking
        )

    def _select(self, target: Target) -> bool:
        """Turn the editor's logic to a segment; says whether it has a state to go back to."""
        node, volume = self._segmentation(target.segmentation), self._volume(target.volume)
        if self._node.GetSegmentationNode() is not node:
            self._node.SetAndObserveSegmentationNode(node)
            self._logic.SetSegmentationNode(node)
            self._saved.clear()
        if self._node.GetSourceVolumeNode() is not volume:
            self._node.SetAndObserveSourceVolumeNode(volume)
            self._logic.SetSourceVolumeNode(volume)
        self._node.SetSelectedSegmentID(target.segment)
        self._logic.SetCurrentSegmentID(target.segment)
        self._node.SetOverwriteMode(OVERWRITE[self.overwrite])
        self._copy_masking()
        self._logic.UpdateReferenceGeometryImage()
        self._logic.UpdateAlignedSourceVolume()
        if self._is_masked():
            # it looks at every voxel of the volume
            self._logic.UpdateMaskLabelmap()
        return bool(self._logic.CanUndo())

    def _is_masked(self) -> bool:
        everywhere = slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
        mode, by_value = self._node.GetMaskMode(), self._node.GetSourceVolumeIntensityMask()
        return mode != everywhere or bool(by_value)

    def _copy_masking(self) -> None:
        """Take the editable area from the Segment Editor, where the user chooses it."""
        theirs = self._mrml.GetSingletonNode("SegmentEditor", _EDITOR_NODE)
        if theirs is not None:
            self._node.SetMaskMode(theirs.GetMaskMode())
            self._node.SetMaskSegmentID(theirs.GetMaskSegmentID())
            self._node.SetSourceVolumeIntensityMask(theirs.GetSourceVolumeIntensityMask())
            self._node.SetSourceVolumeIntensityMaskRange(theirs.GetSourceVolumeIntensityMaskRange())

    def _content(self, target: Target, edges: Edges) -> np.ndarray:
        """Segment inside a box on the grid of the volume."""
        content = np.zeros(tuple(high - low for low, high in edges), bool)
        found = self._voxels(target)
        if found is None:
            return content
        ours, theirs = [], []
        for (low, high), start, size in zip(edges, found.first, found.array.shape, strict=True):
            a, b = max(low, start), min(high, start + size)
            if a >= b:
                return content
            ours.append(slice(a - low, b - low))
            theirs.append(slice(a - start, b - start))
        content[tuple(ours)] = found.array[tuple(theirs)] == found.value
        return content

    def _voxels(self, target: Target) -> "Voxels | None":
        """Labelmap of a segment; None if there is none yet."""
        node = self._segmentation(target.segmentation)
        segment = node.GetSegmentation().GetSegment(target.segment)
        if segment is None:
            raise SceneError("the segment was deleted; choose or add another one")
        labelmap = node.GetBinaryLabelmapInternalRepresentation(target.segment)
        if not is_filled(labelmap):
            return None
        extent = labelmap.GetExtent()
        shape = tuple(
            high - low + 1 for low, high in zip(extent[4::-2], extent[5::-2], strict=True)
        )
        array = numpy_support.vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(shape)
        shift = self._frame(target).shift
        first = tuple(low - by for low, by in zip(extent[4::-2], shift, strict=True))
        return Voxels(array, segment.GetLabelValue(), first, labelmap.GetMTime())

    def _frame(self, target: Target) -> Frame:
        return frame_of(self._volume(target.volume), self._segmentation(target.segmentation))

    def _has_content(self, node: Any) -> bool:
        segmentation = node.GetSegmentation()
        source = segmentation.GetSourceRepresentationName()
        binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        if source == binary:
            return any(True for _ in labelmaps(node))
        held = (
            segmentation.GetNthSegment(index).GetRepresentation(source)
            for index in range(segmentation.GetNumberOfSegments())
        )
        return any(one is not None and one.GetNumberOfPoints() > 0 for one in held)

    def _volume(self, volume_id: str) -> Any:
        volume = self._mrml.GetNodeByID(volume_id) if volume_id else None
        if volume is None or volume.GetImageData() is None:
            raise SceneError("the volume is gone or empty; choose another one")
        return volume

    def _segmentation(self, segmentation_id: str) -> Any:
        node = self._mrml.GetNodeByID(segmentation_id) if segmentation_id else None
        if node is None or node.GetSegmentation() is None:
            raise SceneError("the segmentation is gone; choose another one")
        return node


def _stamp_of(voxels: Voxels) -> tuple[int, int]:
    held = voxels.array == voxels.value
    if not held.any():
        return 0, 0
    held, first = cropped(held, voxels.first)
    place = np.array([*first, *held.shape], np.int64).tobytes()
    return int(held.sum()), zlib.crc32(np.packbits(held).tobytes(), zlib.crc32(place))
