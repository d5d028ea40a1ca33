"""Dice and IoU."""

import numpy as np
import pytest

from segkit.metrics.overlap import overlap


def test_shifted_cube() -> None:
    cube = np.zeros((32, 32, 32), dtype=bool)
    cube[8:20, 8:20, 8:20] = True
    counts = overlap(np.roll(cube, 1, axis=0), cube)
    assert counts.dice == pytest.approx(0.916667, abs=1e-6)
    assert counts.iou == pytest.approx(0.846154, abs=1e-6)


def test_empties() -> None:
    empty, full = np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool)
    assert (overlap(empty, empty).dice, overlap(empty, empty).iou) == (1, 1)
    assert (overlap(empty, full).dice, overlap(full, empty).iou) == (0, 0)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 1\) and \(3, 3\); bring the prediction"):
        overlap(np.ones((3, 1), dtype=bool), np.ones((3, 3), dtype=bool))
