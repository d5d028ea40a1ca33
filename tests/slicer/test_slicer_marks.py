"""Marks in voxels: clicks, boxes, scribbles and lassos."""

import numpy as np
import pytest
from SegKitLib import marks
from SegKitLib.marks import MarkError

SHAPE = (10, 20, 30)


def test_clicks_are_rounded_to_the_voxel_that_holds_them() -> None:
    assert marks.click(np.array([9.49, -0.4, 3.5]), SHAPE, 0) == marks.Click((9.0, 0.0, 4.0), 0)


@pytest.mark.parametrize("point", [(9.6, 0, 0), (0, -0.6, 0), (0, 0, 1e9), (np.nan, 0, 0)])
def test_clicks_outside_are_refused(point: tuple[float, ...]) -> None:
    with pytest.raises(MarkError, match="the point lies outside the volume"):
        marks.click(np.array(point), SHAPE)


def test_boxes_hold_their_corners_and_end_at_the_border() -> None:
    box = marks.box(np.array([[3.2, 25.0, 4.0], [3.4, -7.0, 8.6]]), SHAPE)
    assert box.edges == ((3, 4), (0, 20), (4, 10))


@pytest.mark.parametrize(
    ("corners", "message"),
    [([[1, 1, 1]], "two opposite corners"), ([[12, 1, 1], [14, 2, 2]], "outside the volume")],
)
def test_boxes_that_cannot_be_used(corners: list[list[float]], message: str) -> None:
    with pytest.raises(MarkError, match=message):
        marks.box(np.array(corners, float), SHAPE)


def test_scribbles_are_connected_and_stay_inside() -> None:
    drawn = marks.scribble(np.array([[2.0, 3.0, 25.0], [2.0, 9.0, 40.0]]), SHAPE)
    assert drawn.edges[0] == (2, 3)
    assert drawn.edges[2] == (25, 30)
    places = np.argwhere(drawn.voxels)
    steps = np.abs(np.diff(places[np.argsort(places[:, 2])], axis=0))
    assert steps.max() == 1
    with pytest.raises(MarkError, match="no points"):
        marks.scribble(np.zeros((0, 3)), SHAPE)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lassos_fill_the_slice_they_lie_on(axis: int) -> None:
    flat = np.array([[1.5, 1.5], [1.5, 6.5], [5.5, 6.5], [5.5, 1.5]])
    drawn = marks.lasso(np.insert(flat, axis, 4.2, axis=1), SHAPE)
    edges = [(2, 6), (2, 7)]
    edges.insert(axis, (4, 5))
    assert drawn.edges == tuple(edges)
    assert drawn.voxels.all()


def test_lassos_may_be_oblique_and_concave() -> None:
    flat = np.array([[1.6, 1.6], [1.6, 8.4], [8.4, 8.4], [8.4, 5.5], [4.4, 5.5], [4.4, 1.6]])
    drawn = marks.lasso(np.insert(flat, 0, flat[:, 0] * 0.4, axis=1), SHAPE)
    whole = np.zeros(SHAPE, bool)
    whole[tuple(slice(*edge) for edge in drawn.edges)] = drawn.voxels
    k, j, _ = np.argwhere(whole).T
    assert (k == np.rint(j * 0.4)).all()
    assert len(k) == 3 * 7 + 4 * 3
    assert not whole[:, 6, 3].any()
    assert whole[:, 6, 7].any()
    assert whole[:, 3, 3].any()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1, 1, 1], [1, 2, 2]], "three points"),
        ([[1, 1.2, 1.2], [1, 1.2, 1.4], [1, 1.4, 1.4]], "encloses no voxel"),
        ([[1, 31, 31], [1, 31, 35], [1, 35, 35]], "outside the volume"),
        ([[15, 1, 1], [15, 1, 5], [15, 5, 5]], "the lasso lies outside"),
    ],
)
def test_lassos_that_cannot_be_used(points: list[list[float]], message: str) -> None:
    with pytest.raises(MarkError, match=message):
        marks.lasso(np.array(points, float), SHAPE)
