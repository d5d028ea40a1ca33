"""Figures of a case: empties are defined and flagged, never NaN."""

import dataclasses
import math

import numpy as np
import pytest

from segkit.metrics import case_metrics, describe_metrics, label_metrics

EMPTY = np.zeros((10, 20, 30), dtype=bool)
SOLID = np.zeros_like(EMPTY)
SOLID[2:6, 4:9, 5:15] = True
DIAGONAL = math.hypot(10 * 3, 20 * 1, 30 * 0.5)


@pytest.mark.parametrize(
    ("prediction", "reference", "score", "distance", "flag"),
    [
        (EMPTY, EMPTY, 1, 0, "both_empty"),
        (EMPTY, SOLID, 0, DIAGONAL, "empty_prediction"),
        (SOLID, EMPTY, 0, DIAGONAL, "empty_reference"),
    ],
)
def test_empties_are_defined_and_flagged(
    prediction: np.ndarray, reference: np.ndarray, score: float, distance: float, flag: str
) -> None:
    figures = case_metrics(prediction, reference, (3.0, 1.0, 0.5))
    assert (figures.dice, figures.iou, figures.nsd) == (score, score, score)
    assert figures.hd95_mm == figures.assd_mm == pytest.approx(distance)
    assert figures.flags == (flag,)


def test_perfect_prediction() -> None:
    figures = case_metrics(SOLID, SOLID, (3.0, 1.0, 0.5))
    assert (figures.dice, figures.nsd, figures.hd95_mm, figures.flags) == (1, 1, 0, ())
    assert figures.reference_voxels == figures.predicted_voxels == 200


def test_classes_are_measured_apart() -> None:
    reference = SOLID.astype(np.uint8)
    reference[7:9] = 2
    prediction = reference.copy()
    prediction[7:9] = 0
    by_class = label_metrics(prediction, reference, (1, 2, 3), (1.0, 1.0, 1.0))
    assert [by_class[c].dice for c in (1, 2, 3)] == [1, 0, 1]
    assert by_class[3].flags == ("both_empty",)


def test_the_definition_is_an_option() -> None:
    moved = np.roll(SOLID, 1, axis=1)
    surfel = case_metrics(moved, SOLID, (3.0, 1.0, 0.5), tolerance_mm=0.5)
    voxel = case_metrics(moved, SOLID, (3.0, 1.0, 0.5), tolerance_mm=0.5, definition="voxel")
    assert surfel.nsd != pytest.approx(voxel.nsd, abs=1e-3)


def test_figures_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        case_metrics(SOLID, SOLID, (1, 1, 1)).dice = 1.0


@pytest.mark.parametrize(
    ("spacing", "tolerance", "message"),
    [
        ((0.0, 1.0, 1.0), 1.0, r"spacing_mm must be > 0, got \(0.0, 1.0, 1.0\)"),
        ((1.0, 1.0, 1.0), -1.0, r"tolerance_mm must be >= 0, got -1.0"),
    ],
)
def test_wrong_units_are_refused(
    spacing: tuple[float, ...], tolerance: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        case_metrics(SOLID, SOLID, spacing, tolerance_mm=tolerance)


def test_definitions_name_tolerance_unit_and_empties() -> None:
    text = describe_metrics("surfel", 2.0, "mm")
    assert "at 2 mm" in text["nsd"]
    assert "DeepMind" in text["hd95_mm"]
    assert "diagonal" in text["hd95_mm"]
    assert "MONAI" in describe_metrics("voxel", 1.0, "px")["nsd"]
