"""Reading and writing MRML with Slicer's own C++ code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer.util", reason="slicer-core is not installed here; run make test-slicer")
import scenes
import slicer
from scenes import BLOCK, FRAMES, SHAPE
from SegKitLib import marks
from SegKitLib.marks import SceneError, Target

BOX = ((2, 7), (5, 15), (6, 18))


def content(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((5, 10, 12)) > 0.4


def whole(box: Any, held: np.ndarray) -> np.ndarray:
    found = np.zeros(SHAPE, bool)
    found[tuple(slice(*edge) for edge in box)] = held
    return found


@pytest.fixture
def case(mrml: Any) -> scenes.Case:
    return scenes.case(scenes.volume(is_moved=True))


@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_points_in_the_world_are_the_voxels_under_them(
    mrml: Any, frame: str, is_moved: bool
) -> None:
    node = scenes.volume(FRAMES[frame], is_moved=is_moved)
    scene = scenes.case(node).bench.scene
    indices = [(6, 20, 24), (0, 39, 0), (11, 0, 47.25)]
    world = np.array([scenes.to_world(node, index) for index in indices])
    np.testing.assert_allclose(scene.to_voxels(node.GetID(), world), indices, atol=1e-6)
    image = scene.image(node.GetID())
    np.testing.assert_array_equal(image.array, slicer.util.arrayFromVolume(node))
    np.testing.assert_allclose(image.affine, FRAMES[frame], atol=1e-12)


@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_segments_are_written_voxel_by_voxel(mrml: Any, frame: str, is_moved: bool) -> None:
    case = scenes.case(scenes.volume(FRAMES[frame], is_moved=is_moved))
    target = case.target("a")
    case.bench.scene.prepare(target)
    first, second = content(1), content(2)
    assert case.bench.scene.write(target, BOX, first)
    assert not case.bench.scene.write(target, BOX, first)
    other = ((0, 5), (30, 40), (36, 48))
    assert case.bench.scene.write(target, other, second)
    expected = whole(BOX, first) | whole(other, second)
    np.testing.assert_array_equal(case.bench.scene.mask(target), expected)
    np.testing.assert_array_equal(case.array(target), expected)
    # voxels go as well as come
    assert case.bench.scene.write(target, BOX, second)
    np.testing.assert_array_equal(case.array(target), whole(BOX, second) | whole(other, second))


def test_overlapping_neighbours_stay_and_undo_restores_both(case: scenes.Case) -> None:
    scene, a, b = case.bench.scene, case.target("a"), case.target("b")
    full = np.ones((5, 10, 12), bool)
    scene.write(a, BOX, full)
    before = scene.stamp(a)
    wider = ((0, 12), (0, 30), (0, 40))
    scene.write(b, wider, np.ones((12, 30, 40), bool))
    node = slicer.mrmlScene.GetNodeByID(case.segmentation)
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    np.testing.assert_array_equal(case.array(a), whole(BOX, full))
    assert case.array(b).sum() == 12 * 30 * 40
    assert scene.stamp(a) == before
    assert not scene.restore(a)
    assert scene.restore(b)
    assert not scene.mask(b).any()
    np.testing.assert_array_equal(scene.mask(a), whole(BOX, full))


@pytest.mark.parametrize(("mode", "left"), [("all", 0), ("visible", 0), ("none", 600)])
def test_the_user_decides_what_happens_to_others(case: scenes.Case, mode: str, left: int) -> None:
    scene, a, b = case.bench.scene, case.target("a"), case.target("b")
    scene.write(a, BOX, np.ones((5, 10, 12), bool))
    scene.overwrite = mode
    scene.write(b, BOX, np.ones((5, 10, 12), bool))
    assert scene.mask(a).sum() == left
    # undo brings the neighbour back
    assert scene.restore(b)
    assert scene.mask(a).sum() == 600


def test_the_editable_area_of_the_segment_editor_is_honoured(case: scenes.Case) -> None:
    scene, a, b = case.bench.scene, case.target("a"), case.target("b")
    editor = slicer.vtkMRMLSegmentEditorNode()
    editor.SetSingletonTag("SegmentEditor")
    editor = slicer.mrmlScene.AddNode(editor)
    editor.SetSourceVolumeIntensityMask(True)
    editor.SetSourceVolumeIntensityMaskRange(500, 2000)
    everything = tuple((0, size) for size in SHAPE)
    scene.write(a, everything, np.ones(SHAPE, bool))
    expected = np.zeros(SHAPE, bool)
    expected[BLOCK] = True
    np.testing.assert_array_equal(case.array(a), expected)
    editor.SetSourceVolumeIntensityMask(False)
    editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    scene.write(b, everything, np.ones(SHAPE, bool))
    np.testing.assert_array_equal(case.array(b), ~expected)
    # and no longer once everything may be edited again
    editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
    scene.write(a, everything, np.ones(SHAPE, bool))
    assert case.array(a).all()


def test_stamps_change_with_the_voxels_of_the_segment_only(case: scenes.Case) -> None:
    scene, a, b = case.bench.scene, case.target("a"), case.target("b")
    assert scene.stamp(a) == (0, 0)
    scene.write(a, BOX, content())
    first = scene.stamp(a)
    scene.write(b, ((9, 12), (30, 40), (40, 48)), np.ones((3, 10, 8), bool))
    assert scene.stamp(a) == first
    node = slicer.mrmlScene.GetNodeByID(case.segmentation)
    array = scene.mask(a)
    array[0, 0, 0] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        array.astype(np.uint8), node, a.segment, case.node
    )
    assert scene.stamp(a) != first
    volume = scene.volume_stamp(case.node.GetID())
    case.node.SetAndObserveTransformNodeID(None)
    assert scene.volume_stamp(case.node.GetID()) == volume
    slicer.util.arrayFromVolume(case.node)[0, 0, 0] += 1
    case.node.GetImageData().Modified()
    assert scene.volume_stamp(case.node.GetID()) != volume


def test_saved_segments_come_back_and_can_be_edited(case: scenes.Case, tmp_path: Path) -> None:
    scene, a = case.bench.scene, case.target("a")
    scene.write(a, BOX, content())
    node = slicer.mrmlScene.GetNodeByID(case.segmentation)
    expected = whole(BOX, content())
    path = str(tmp_path / "saved.seg.nrrd")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(path)
    assert storage.WriteData(node)
    loaded = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "loaded")
    assert storage.ReadData(loaded)
    loaded.SetAndObserveTransformNodeID(case.node.GetTransformNodeID())
    segment = loaded.GetSegmentation().GetNthSegmentID(0)
    again = Target(case.node.GetID(), loaded.GetID(), segment)
    scene.prepare(again)
    np.testing.assert_array_equal(scene.mask(again), expected)
    scene.write(again, ((0, 1), (0, 2), (0, 3)), np.ones((1, 2, 3), bool))
    expected[0, :2, :3] = True
    np.testing.assert_array_equal(case.array(again), expected)


def test_label_maps_become_segments_in_one_step(case: scenes.Case) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[BLOCK], labels[0] = 3, 1
    added = case.bench.scene.write_labels(
        case.node.GetID(), case.segmentation, labels, {1: "floor", 2: "absent"}
    )
    node = slicer.mrmlScene.GetNodeByID(case.segmentation)
    names = [node.GetSegmentation().GetSegment(one).GetName() for one in added]
    assert names == ["floor", "label 3"]
    for segment, value in zip(added, (1, 3), strict=True):
        target = Target(case.node.GetID(), case.segmentation, segment)
        np.testing.assert_array_equal(case.array(target), labels == value)


def test_nodes_that_do_not_fit_are_refused(case: scenes.Case) -> None:
    scene, a = case.bench.scene, case.target("a")
    scene.write(a, BOX, content())
    other = scenes.volume(FRAMES["anisotropic"])
    with pytest.raises(SceneError, match="under different transforms"):
        scene.prepare(Target(other.GetID(), case.segmentation, a.segment))
    other.SetAndObserveTransformNodeID(case.node.GetTransformNodeID())
    with pytest.raises(SceneError, match="another grid than volume"):
        scene.prepare(Target(other.GetID(), case.segmentation, a.segment))
    with pytest.raises(SceneError, match="the segment was deleted"):
        scene.prepare(Target(case.node.GetID(), case.segmentation, "gone"))
    with pytest.raises(SceneError, match="the volume is gone"):
        scene.shape("vtkMRMLScalarVolumeNode99")
    with pytest.raises(SceneError, match="the segmentation is gone"):
        scene.prepare(Target(case.node.GetID(), "vtkMRMLSegmentationNode99", "a"))
    colours = slicer.util.addVolumeFromArray(
        np.zeros((2, 3, 4, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode"
    )
    with pytest.raises(SceneError, match="Vector to Scalar Volume"):
        scene.image(colours.GetID())


@pytest.mark.parametrize("tool", ["points", "box", "scribble", "lasso"])
def test_markups_become_marks_under_a_transform(case: scenes.Case, tool: str) -> None:
    sent: list[Any] = []
    case.bench.controller.add = lambda _, mark: sent.append(mark)  # type: ignore[method-assign]
    kinds = {"points": "Fiducial", "box": "Line", "scribble": "Curve", "lasso": "ClosedCurve"}
    indices = [(6, 10, 10), (6, 20, 30)] if tool != "lasso" else [
        (6, 9.6, 9.6), (6, 9.6, 20.4), (6, 20.4, 20.4), (6, 20.4, 9.6)
    ]  # fmt: skip
    placed = scenes.markups(case.node, kinds[tool], indices[:1] if tool == "points" else indices)
    case.bench.mark(case.target("a"), tool, placed, 0)
    (mark,) = sent
    assert mark.label == 0
    expected = {
        "points": lambda: mark == marks.Click((6.0, 10.0, 10.0), 0),
        "box": lambda: mark.edges == ((6, 7), (10, 21), (10, 31)),
        "scribble": lambda: mark.edges == ((6, 7), (10, 21), (10, 31)) and mark.voxels.any(2).all(),
        "lasso": lambda: mark.edges == ((6, 7), (10, 21), (10, 21)) and mark.voxels.all(),
    }
    assert expected[tool]()


def test_tools_place_and_are_put_down(case: scenes.Case) -> None:
    from SegKitLib.placing import Placer

    seen: list[tuple[str, int]] = []
    later: list[Any] = []
    put_down: list[bool] = []
    placer = Placer(
        lambda tool, node: seen.append((tool, node.GetNumberOfControlPoints())),
        lambda: put_down.append(True),
        later.append,
    )
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    placer.take("points", is_adding=True)
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode")
    node.AddControlPointWorld(1, 2, 3)
    assert seen == [("points", 1)]
    assert node.GetNumberOfControlPoints() == 0
    placer.take("lasso", is_adding=False)
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode") is None
    curve = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLMarkupsClosedCurveNode")
    for place in ((0, 0, 0), (9, 0, 0), (9, 9, 0)):
        curve.AddControlPointWorld(*place)
    interaction.SwitchToViewTransformMode()
    assert seen[-1] == ("lasso", 3)
    later.pop()()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    # nothing placed: the user gave up
    interaction.SwitchToViewTransformMode()
    assert placer.tool == ""
    assert put_down == [True]
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLMarkupsClosedCurveNode") is None
    placer.close()


def test_the_scene_may_be_closed_and_used_again(case: scenes.Case) -> None:
    scene = case.bench.scene
    scene.write(case.target("a"), BOX, content())
    slicer.mrmlScene.Clear(0)
    scene.reopen()
    again = scenes.Case(case.bench, scenes.volume(), "")
    again.segmentation = scene.segmentation_of(again.node.GetID())
    target = again.target("a")
    scene.write(target, BOX, content())
    np.testing.assert_array_equal(again.array(target), whole(BOX, content()))
    case.bench.close()
