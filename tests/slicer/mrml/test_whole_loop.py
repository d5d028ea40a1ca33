"""Markups, server, segment: with real MRML, and `segkit serve -m nano` as a process."""

import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer.util", reason="slicer-core is not installed here; run make test-slicer")
import scenes
import slicer
from scenes import FRAMES, INSIDE, SHAPE
from SegKitLib.client import RemotePredictor
from SegKitLib.marks import Propagate
from SegKitLib.rehearsal import RehearsalPredictor


def connected(node: Any, server: Any = None) -> scenes.Case:
    case = scenes.case(node, **({} if server is not None else {"connect": RehearsalPredictor}))
    url, token = ("http://127.0.0.1:1", "") if server is None else (server.url, server.token)
    case.bench.controller.connect(url, token)
    case.settle()
    return case


def mark(case: scenes.Case, target: Any, tool: str, indices: Any, label: int = 1) -> None:
    kinds = {"points": "Fiducial", "box": "Line", "scribble": "Curve", "lasso": "ClosedCurve"}
    case.bench.mark(target, tool, scenes.markups(case.node, kinds[tool], indices), label)
    case.settle()


@pytest.mark.parametrize("is_moved", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
def test_segments_equal_the_masks_of_the_server(
    mrml: Any, server: Any, frame: str, is_moved: bool
) -> None:
    case = connected(scenes.volume(FRAMES[frame], is_moved=is_moved), server)
    target = case.target("block")
    # the same prompts, said directly, voxel by voxel
    with RemotePredictor(server.url, token=server.token) as remote:
        voxels = slicer.util.arrayFromVolume(case.node)
        session = remote.open(voxels, affine=FRAMES[frame], model="nano")
        session.add_points([INSIDE], [1])
        mark(case, target, "points", [INSIDE])
        assert session.mask().any()
        np.testing.assert_array_equal(case.array(target), session.mask())
        session.add_box(((4, 12, 14), (5, 28, 34)))
        mark(case, target, "box", [(4, 12, 14), (4, 27, 33)])
        np.testing.assert_array_equal(case.array(target), session.mask())
        session.propagate(start=3, stop=7)
        case.bench.controller.add(target, Propagate(3, 7))
        case.settle()
        np.testing.assert_array_equal(case.array(target), session.mask())
        held = case.array(target)
        case.bench.controller.undo(target)
        case.settle()
        session.undo()
        np.testing.assert_array_equal(case.bench.scene.mask(target), session.mask())
        case.bench.controller.redo(target)
        case.settle()
        np.testing.assert_array_equal(case.array(target), held)
    case.bench.close()


def test_two_segments_of_one_server_overlap_and_go_their_own_ways(mrml: Any) -> None:
    case = connected(scenes.volume(is_moved=True))
    a, b = case.target("a"), case.target("b")
    mark(case, a, "points", [(6, 20, 20)])
    mark(case, b, "points", [(6, 20, 22)])
    first, second = case.array(a), case.array(b)
    assert (first & second).any()
    mark(case, a, "points", [(6, 30, 30)])
    assert (case.array(a) & ~first).any()
    np.testing.assert_array_equal(case.array(b), second)
    case.bench.controller.undo(b)
    case.settle()
    assert not case.bench.scene.mask(b).any()
    assert case.array(a)[6, 30, 30]
    case.bench.close()


def test_edits_of_the_segment_editor_are_taken_over(mrml: Any) -> None:
    case = connected(scenes.volume())
    target = case.target("a")
    mark(case, target, "points", [INSIDE])
    held = case.array(target)
    held[0, :3, :3] = True
    node = slicer.mrmlScene.GetNodeByID(case.segmentation)
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        held.astype(np.uint8), node, target.segment, case.node
    )
    mark(case, target, "scribble", [(2, 5, 5), (2, 5, 15)])
    after = case.array(target)
    assert (after[held]).all()
    assert after[2, 5, 5:16].all()
    mark(case, target, "lasso", [(0, -1, -1), (0, -1, 8), (0, 8, 8), (0, 8, -1)], 0)
    assert not case.array(target)[0].any()
    case.bench.close()


def test_an_own_server_starts_serves_and_ends(mrml: Any, server: Any) -> None:
    """Through the workbench, as the panel does it."""
    case = scenes.case(scenes.volume())
    target = case.target("a")
    case.bench.start_server(server.python, ["nano"], dict(os.environ))
    own = case.bench.server
    assert case.bench.wait(600), own.log
    assert own.token != server.token
    mark(case, target, "points", [INSIDE])
    assert case.array(target)[INSIDE]
    case.bench.stop_server()
    assert not own.is_running
    assert server.is_running
    assert case.array(target).shape == SHAPE
    case.bench.close()
