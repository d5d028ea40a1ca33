"""Masks carried from slice to slice."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.predictors.engine import Hint

Make = Callable[..., Any]
SHAPE = (12, 40, 40)
BODY = ((2, 10, 10), (10, 24, 24))
OTHER = ((3, 28, 28), (9, 36, 36))


def inside(*boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for box in boxes:
        mask[tuple(slice(a, b) for a, b in zip(*box, strict=True))] = True
    return mask


@pytest.mark.parametrize("hints", [("box",), ("mask",), ("points",), ("box", "mask", "points")])
def test_one_slice_reaches_both_ends_of_the_object(
    bright: Make, a_scan: Make, hints: tuple[Hint, ...]
) -> None:
    session = bright().open(a_scan(SHAPE, BODY, OTHER)).add_points([(5, 15, 15)], [1])
    np.testing.assert_array_equal(session.propagate(hints=hints).mask(), inside(BODY))
    np.testing.assert_array_equal(session.undo().mask(), inside(((5, 10, 10), (6, 24, 24))))


def test_boxes_are_wider_than_the_neighbour_so_that_objects_can_grow(
    bright: Make, a_scan: Make
) -> None:
    cone = [((k, 15 - k, 15 - k), (k + 1, 26 + k, 26 + k)) for k in range(2, 10)]
    volume = a_scan(SHAPE, *cone)
    session = bright().open(volume).add_box(cone[0])
    wide = session.propagate(hints=("box",)).mask()
    np.testing.assert_array_equal(wide, inside(*cone))
    tight = session.undo().propagate(hints=("box",), margin=0).mask()
    assert tight[9].sum() == tight[2].sum() < wide[9].sum()
    with pytest.raises(InputError, match=r"margin must be in \[0, 1\] of the box, got -1"):
        session.propagate(margin=-1)


def test_range_is_half_open_in_voxel_slices(bright: Make, a_scan: Make) -> None:
    session = bright().open(a_scan(SHAPE, BODY)).add_points([(5, 15, 15)], [1])
    session.propagate(start=4, stop=8)
    np.testing.assert_array_equal(session.mask(), inside(((4, 10, 10), (8, 24, 24))))


def test_slices_of_a_reversed_axis_are_counted_as_in_the_file(bright: Make, a_scan: Make) -> None:
    volume = a_scan(SHAPE, BODY)
    change, turned = volume.geometry.reoriented("RAI")
    assert change.flips[0]
    reversed_file = type(volume)(change.apply(volume.array), turned)
    session = bright().open(reversed_file).add_points([(5, 15, 15)], [1]).propagate(start=5)
    expected = inside(((5, 10, 10), (10, 24, 24)))  # the file holds the body at 2 to 10 as well
    np.testing.assert_array_equal(session.mask(), expected)


def test_two_marked_slices_meet_in_the_middle(bright: Make, a_scan: Make) -> None:
    """Each end marks another body on its slice; neither crosses the middle."""
    predictor = bright()
    session = predictor.open(a_scan(SHAPE, BODY, OTHER))
    session.add_points([(3, 15, 15), (8, 32, 32)], [1, 1]).propagate()
    found = session.mask()
    for index in (2, 3, 4, 5):
        np.testing.assert_array_equal(found[index], inside(BODY)[index])
    for index in (6, 7, 8):
        np.testing.assert_array_equal(found[index], inside(OTHER)[index])
    assert not found[9:].any()


def test_between_marked_slices_the_outline_between_theirs_gives_the_prompts(
    bright: Make, a_scan: Make
) -> None:
    """A square cone; the outline between two squares may lack a corner."""
    cone = [((k, 15 - k, 15 - k), (k + 1, 26 + k, 26 + k)) for k in range(2, 10)]
    session = bright().open(a_scan(SHAPE, *cone)).add_box(cone[0]).add_box(cone[-1])
    found = session.propagate(hints=("box",), start=2, stop=10).mask()
    assert (found ^ inside(*cone)).sum(axis=(1, 2)).max() <= 4
    assert sorted(session.scores()) == list(range(2, 10))


def test_the_outline_stands_in_where_the_model_finds_nothing(bright: Make, a_scan: Make) -> None:
    session = bright().open(a_scan(SHAPE, ((2, 10, 10), (5, 24, 24)), ((7, 10, 10), (10, 24, 24))))
    session.add_points([(3, 15, 15), (8, 15, 15)], [1, 1])
    np.testing.assert_array_equal(session.propagate().mask(), inside(BODY))


def test_corrected_slice_is_a_start_of_its_own(bright: Make, a_scan: Make) -> None:
    session = bright().open(a_scan(SHAPE, BODY, OTHER)).add_points([(5, 15, 15)], [1])
    session.propagate().add_points([(7, 32, 32)], [1]).propagate()
    found = session.mask()
    np.testing.assert_array_equal(found[:7], inside(BODY)[:7])
    # found again from the corrected slice
    np.testing.assert_array_equal(found[8], inside(BODY, OTHER)[8])


def test_propagation_counts_as_one_interaction_with_its_changed_box(
    bright: Make, a_scan: Make
) -> None:
    session = bright().open(a_scan(SHAPE, BODY)).add_points([(5, 15, 15)], [1])
    session.mask()
    assert session.propagate().changed_box() == ((2, 10, 10), (10, 24, 24))
    assert sorted(session.scores()) == list(range(2, 10))


def test_low_score_stops_the_walk(bright: Make, a_scan: Make) -> None:
    session = bright().open(a_scan(SHAPE, BODY)).add_points([(5, 15, 15)], [1])
    assert sorted(session.propagate(min_iou=0.95).scores()) == [5]


def test_shrinking_overlap_stops_the_walk(bright: Make, a_scan: Make) -> None:
    """From 14 x 14 to 6 x 6 voxels at one corner: an overlap of 0.18."""
    tail = ((8, 10, 10), (12, 16, 16))
    session = bright().open(a_scan(SHAPE, ((2, 10, 10), (8, 24, 24)), tail))
    session.add_points([(5, 15, 15)], [1])
    assert max(session.propagate().scores()) == 7
    session.undo()
    assert max(session.propagate(min_overlap=0.1).scores()) == 11


def test_progress_counts_slices_and_cancel_keeps_the_state(bright: Make, a_scan: Make) -> None:
    session = bright().open(a_scan(SHAPE, BODY)).add_points([(5, 15, 15)], [1])
    before, seen = session.mask(), list[tuple[int, int]]()
    session.propagate().update(progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 11)
    assert seen[-1] == (11, 11)
    session.undo().propagate()
    from segkit.predictors.watch import CancelledError

    with pytest.raises(CancelledError):
        session.update(cancel=lambda: True)
    np.testing.assert_array_equal(session.mask(), before)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (3, 13)])
def test_p14_slices_outside_are_refused(bright: Make, a_scan: Make, start: int, stop: int) -> None:
    session = bright().open(a_scan(SHAPE, BODY)).add_points([(5, 15, 15)], [1])
    with pytest.raises(
        InputError, match=r"has 12 slices: 0 <= start < stop <= 12; .*\(12, 40, 40\)"
    ):
        session.propagate(start=start, stop=stop)


def test_nothing_to_propagate_is_refused(bright: Make, a_scan: Make) -> None:
    session = bright().open(a_scan(SHAPE, BODY))
    with pytest.raises(InputError, match="no prompt given"):
        session.propagate()
    with pytest.raises(InputError, match="hints must be some of"):
        session.propagate(hints=("edge",))  # type: ignore[arg-type]
    session.add_points([(0, 2, 2)], [1]).propagate()
    with pytest.raises(InputError, match="no mask to propagate; mark a slice first"):
        session.mask()
    assert not session.mask().any()  # the propagation is gone, the click is not
