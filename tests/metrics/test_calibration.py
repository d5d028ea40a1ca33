"""Calibration and sparsification against closed forms and against MONAI."""

import numpy as np
import pytest
import torch

from segkit.metrics.calibration import Calibration, calibration, sparsification


def test_gaps_of_two_bins_by_hand() -> None:
    p = np.array([0.1, 0.1, 0.8, 0.9])
    truth = np.array([False, True, True, True])
    found = calibration(p, truth, bins=2)
    np.testing.assert_allclose(found.gaps, [0.4, 0.15])
    assert found.ece == pytest.approx((2 * 0.4 + 2 * 0.15) / 4)
    assert (found.mce, found.voxels) == (pytest.approx(0.4), 4)


def test_right_probabilities_have_no_error() -> None:
    p = np.repeat(np.array([0.25, 0.75]), 1000)
    truth = np.concatenate([np.arange(1000) < 250, np.arange(1000) < 750])
    assert calibration(p, truth).ece == pytest.approx(0.0, abs=1e-12)
    sure = np.array([0.0, 1.0, 1.0])
    assert calibration(sure, sure > 0.5).ece == 0.0


def test_cases_add_up() -> None:
    rng = np.random.default_rng(0)
    p, truth = rng.random((4, 30)), rng.random((4, 30)) < 0.4
    parts = [calibration(one, two) for one, two in zip(p, truth, strict=True)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    assert total.ece == pytest.approx(calibration(p, truth).ece)
    empty = calibration(np.zeros((0,)), np.zeros((0,), bool))
    assert isinstance(empty, Calibration)
    assert empty.ece == 0.0


def test_monai_finds_the_same_error() -> None:
    metric = pytest.importorskip("monai.metrics").CalibrationErrorMetric
    rng = np.random.default_rng(1)
    p = rng.random((3, 1, 16, 16)).astype(np.float32)
    truth = rng.random(p.shape) < p**2
    for name, own in (("expected", "ece"), ("maximum", "mce")):
        monai = metric(num_bins=15, calibration_reduction=name)
        monai(torch.from_numpy(p), torch.from_numpy(truth).float())
        mean = np.mean([getattr(calibration(p[n], truth[n], bins=15), own) for n in range(3)])
        assert mean == pytest.approx(float(monai.aggregate()), abs=1e-5)


def test_sparsification_by_hand() -> None:
    error = np.array([1.0, 1.0, 0.0, 0.0])
    # the oracle leaves the errors out first: 1, 2/3, 0, 0 of the mean error
    perfect = sparsification(np.array([0.9, 0.8, 0.2, 0.1]), error, steps=4)
    assert perfect.ause == pytest.approx(0.0)
    assert perfect.unranked == pytest.approx(1 - (1 + 2 / 3 + 0 + 0) / 4)
    # the wrong way round: 1, 4/3, 2, 2
    worst = sparsification(np.array([0.1, 0.2, 0.8, 0.9]), error, steps=4)
    assert worst.ause == pytest.approx((0 + 2 / 3 + 2 + 2) / 4)


def test_equal_uncertainty_is_no_ranking() -> None:
    error = (np.arange(50) % 7 == 0).astype(float)
    found = sparsification(np.zeros(50), error)
    assert found.ause == pytest.approx(found.unranked)
    assert sparsification(np.arange(50.0), np.zeros(50)).ause == 0.0


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        calibration(np.zeros(2), np.zeros(3, bool))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\].*need a sigmoid"):
        calibration(np.array([1.5]), np.ones(1, bool))
    with pytest.raises(ValueError, match="bins must be >= 1, got 0"):
        calibration(np.zeros(2), np.zeros(2, bool), bins=0)
    with pytest.raises(ValueError, match="bins must agree, got 3 and 4"):
        calibration(np.zeros(1), np.zeros(1, bool), bins=3) + calibration(
            np.zeros(1), np.zeros(1, bool), bins=4
        )
    with pytest.raises(ValueError, match="at least one voxel"):
        sparsification(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="errors must be >= 0"):
        sparsification(np.zeros(2), np.array([-1.0, 0.0]))
