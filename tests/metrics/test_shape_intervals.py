"""Intervals hold what every mask between the surest and the widest one measures."""

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.metrics.shape_intervals import (
    change_intervals,
    label_intervals,
    picture_intervals,
    relation_intervals,
)
from segkit.metrics.shapes import fit_ellipse, relate_masks

SHAPE = (12, 40, 40)
GEOMETRY = Geometry.from_spacing(SHAPE, (2.0, 0.5, 0.5))


def rod(columns: slice, rows: slice, unsure: int = 2) -> np.ndarray:
    """Sure inside, fading over `unsure` voxels at both ends of its columns."""
    p = np.zeros(SHAPE)
    p[6, rows, columns] = 1.0
    for step in range(1, unsure + 1):
        level = 1 - step / (unsure + 1)
        p[6, rows, columns.start - step] = p[6, rows, columns.stop + step - 1] = level
    return p


def test_volume_and_diameter_of_a_label() -> None:
    found = label_intervals(rod(slice(10, 20), slice(4, 8)), GEOMETRY)
    voxel_ml = 0.5 * 0.5 * 2 / 1000
    assert found["volume_ml"] == pytest.approx((40 * voxel_ml, 56 * voxel_ml))
    assert found["longest_mm"][0] < found["longest_mm"][1]


def test_relations_lie_within_their_interval() -> None:
    one, two = rod(slice(6, 12), slice(4, 6)), rod(slice(22, 34), slice(4, 6))
    found = relation_intervals(one, two, GEOMETRY)
    assert found["gap_mm"] == pytest.approx((7 * 0.5, 11 * 0.5))
    for level in (0.1, 0.5, 0.9):
        values = relate_masks(one > level, two > level, GEOMETRY)
        for name, value in zip(("gap_mm", "centroids_mm", "axis_angle_deg"), values, strict=True):
            low, high = found[name] or (1, 0)
            assert low - 1e-9 <= (value or 0.0) <= high + 1e-9, name


def test_what_cannot_be_related_has_no_interval() -> None:
    nothing = relation_intervals(rod(slice(6, 12), slice(4, 6)), np.zeros(SHAPE), GEOMETRY)
    assert set(nothing.values()) == {None}
    cube = np.zeros(SHAPE)
    cube[6, 20, 20] = 1
    assert relation_intervals(cube, cube, GEOMETRY)["axis_angle_deg"] is None


def test_change_takes_the_extremes_of_both_scans() -> None:
    found = change_intervals((2.0, 3.0), (3.0, 4.5))
    assert found["difference"] == pytest.approx((0.0, 2.5))
    assert found["percent"] == pytest.approx((0.0, 125.0))
    assert change_intervals((0.0, 3.0), (1.0, 2.0))["percent"] is None


def test_circumference_of_a_fading_disc() -> None:
    rows, columns = np.indices((80, 80)) - 39.5
    radius = np.hypot(rows, columns)
    probability = np.clip((26 - radius) / 6, 0, 1)  # sure to 20 pixels, nothing from 26 on
    found = picture_intervals(probability, (0.2, 0.2))
    low, high = found["circumference_mm"]
    assert low == pytest.approx(2 * np.pi * 20.15 * 0.2, rel=0.01)
    assert high == pytest.approx(2 * np.pi * 25.85 * 0.2, rel=0.01)
    assert low < fit_ellipse(probability > 0.5, (0.2, 0.2)).circumference_mm < high


def test_values_beyond_one_are_refused() -> None:
    with pytest.raises(InputError, match="which are no probabilities"):
        relation_intervals(rod(slice(6, 12), slice(4, 6)), np.full(SHAPE, 1.5), GEOMETRY)
