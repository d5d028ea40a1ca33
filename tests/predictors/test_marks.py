"""Prompts of the fault catalogue (P ids): each has its documented outcome."""

import math
import warnings

import numpy as np
import pytest

from segkit.errors import DataWarning, InputError
from segkit.geometry import Geometry
from segkit.predictors.marks import Box, Point, check_box, check_points, settle

SHAPE = (4, 20, 24)
GEOMETRY = Geometry.from_spacing(SHAPE, (3.0, 0.8, 0.8))


def test_p01_point_outside_names_the_valid_range() -> None:
    with pytest.raises(InputError, match=r"valid voxel indices are 0\.\.\(3, 19"):
        check_points([(4, 0, 0)], [1], SHAPE)


def test_p01_negative_index_is_not_wrapped() -> None:
    with pytest.raises(InputError, match="outside"):
        check_points([(0, -1, 0)], [1], SHAPE)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_p02_coordinates_must_be_finite(bad: float) -> None:
    with pytest.raises(InputError, match="finite"):
        check_points([(0, bad, 0)], [1], SHAPE)


def test_p03_integers_and_floats_mean_the_same() -> None:
    assert check_points([(1, 12, 3)], [1], SHAPE) == check_points([(1.0, 12.0, 3.0)], [1], SHAPE)


def test_p04_millimetres_of_the_other_frame_fall_outside() -> None:
    inside = GEOMETRY.to_world_mm(np.array([[1.0, 5.0, 6.0]]), "ras").tolist()
    assert check_points(inside, [1], SHAPE, GEOMETRY, "ras")[0].index == pytest.approx((1, 5, 6))
    with pytest.raises(InputError, match=r"lps space .* outside"):
        check_points(inside, [1], SHAPE, GEOMETRY, "lps")


def test_p04_millimetres_need_a_known_frame() -> None:
    unknown = Geometry.from_spacing(SHAPE, (1.0, 1.0, 1.0), is_known=False)
    with pytest.raises(InputError, match="known frame; give voxel indices"):
        check_points([(0, 0, 0)], [1], SHAPE, unknown, "ras")


def test_p05_reversed_box_is_sorted() -> None:
    expected = Box((0.0, 2.0, 3.0), (2.0, 9.0, 8.0))
    assert check_box(((2, 9, 8), (0, 2, 3)), SHAPE) == expected


def test_p06_box_without_extent_names_the_axis() -> None:
    with pytest.raises(InputError, match="no extent along j; boxes are half-open"):
        check_box(((0, 5, 3), (2, 5, 8)), SHAPE)


def test_p07_box_partly_outside_is_clipped_with_one_warning() -> None:
    with pytest.warns(DataWarning, match="was clipped") as caught:
        box = check_box(((-3, 2, 3), (2, 90, 8)), SHAPE)
    assert box == Box((0.0, 2.0, 3.0), (2.0, 20.0, 8.0))
    assert len(caught) == 1


def test_p08_box_fully_outside_is_refused() -> None:
    with pytest.raises(InputError, match="lies outside the image of shape"):
        check_box(((10, 2, 3), (12, 5, 8)), SHAPE)


def test_p12_contradicting_clicks_on_one_voxel_keep_the_last() -> None:
    clicks = check_points([(1, 2, 3), (1, 2, 3)], [1, 0], SHAPE)
    with pytest.warns(DataWarning, match="the last mark wins"):
        assert settle(clicks) == (Point((1.0, 2.0, 3.0), 0),)


def test_repeated_click_is_kept_once_without_warning() -> None:
    clicks = check_points([(1, 2, 3), (1, 2, 3)], [1, 1], SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(settle(clicks)) == 1


def test_p14_wrong_number_of_axes_names_order_and_shape() -> None:
    with pytest.raises(InputError, match=r"3 numbers in the order \(k, j, i\)"):
        check_points([(1, 2)], [1], SHAPE)
    with pytest.raises(InputError, match=r"2 numbers in the order \(row, column\)"):
        check_points([(1, 2, 3)], [1], (20, 24))


def test_labels_must_be_zero_or_one_and_as_many_as_points() -> None:
    with pytest.raises(InputError, match=r"must be 1 \(object\) or 0 \(background\), got \[2\]"):
        check_points([(1, 2, 3)], [2], SHAPE)
    with pytest.raises(InputError, match="got 1 points and 2 labels"):
        check_points([(1, 2, 3)], [1, 1], SHAPE)


def test_unknown_space_lists_the_allowed_ones() -> None:
    with pytest.raises(InputError, match="unknown space 'mni'; allowed: 'voxel', 'ras'"):
        check_points([(1, 2, 3)], [1], SHAPE, GEOMETRY, "mni")  # type: ignore[arg-type]


def test_box_in_millimetres_spans_the_voxels_whose_centres_it_contains() -> None:
    first, last = GEOMETRY.to_world_mm(np.array([[0.6, 2.0, 3.0], [2.4, 8.2, 9.0]]), "lps")
    box = check_box((first.tolist(), last.tolist()), SHAPE, GEOMETRY, "lps")
    assert box == Box((1.0, 2.0, 3.0), (3.0, 9.0, 10.0))
