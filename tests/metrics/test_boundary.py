"""Figures of SAM 2's own evaluation (sav_benchmark.py, commit 2b90b9f) on closed-form masks."""

import numpy as np
import pytest

from segkit.metrics.boundary import boundary_f, outline

SIZE = (96, 128)


def disk(row, column, radius, size=SIZE):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def corner(row, column):
    mask = np.zeros(SIZE, dtype=bool)
    mask[row:, column:] = True
    return mask


def half(row, column, radius):
    mask = disk(row, column, radius)
    mask[row:] = False
    return mask


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (disk(42, 66, 20), disk(40, 60, 20), 0.28205128205128205),
        (corner(58, 97), corner(60, 100), 0.42962962962962964),
        (half(40, 60, 20), disk(40, 60, 20), 0.6029411764705883),
        (
            disk(300, 410, 150, (600, 800)),
            disk(296, 400, 148, (600, 800)),
            0.6320985219024734,
        ),
        (corner(200, 0), corner(60, 100), 0.0),
        (corner(200, 0), corner(200, 0), 1.0),
    ],
    ids=["shifted", "at the border", "half", "large", "one empty", "both empty"],
)
def test_official_figures(prediction, reference, expected) -> None:
    assert boundary_f(prediction, reference) == pytest.approx(expected, abs=1e-12)
    assert boundary_f(reference, prediction) == pytest.approx(expected, abs=1e-12)


def test_a_mask_that_fills_the_frame_has_no_outline() -> None:
    full = np.ones(SIZE, dtype=bool)
    assert not outline(full).any()
    assert boundary_f(full, full) == 1.0
    assert boundary_f(full, disk(40, 60, 20)) == 0.0


def test_the_tolerance_is_in_pixels() -> None:
    one, other = corner(60, 100), corner(60, 103)
    assert boundary_f(one, other, tolerance_px=0) < boundary_f(one, other, tolerance_px=3) == 1.0


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(96, 128\) and \(96, 127\)"):
        boundary_f(corner(1, 1), corner(1, 1)[:, 1:])
