"""Metrics of the polyp literature against closed forms and a public implementation."""

import numpy as np
import pytest

from segkit.metrics.saliency import (
    DEFINITIONS,
    SALIENCY,
    s_measure,
    saliency_metrics,
    weighted_f,
)


@pytest.fixture
def square() -> np.ndarray:
    mask = np.zeros((20, 24), dtype=bool)
    mask[5:13, 8:18] = True
    return mask


def test_a_perfect_map(square: np.ndarray) -> None:
    found = saliency_metrics(square.astype(float), square)
    assert found.s_measure == pytest.approx(1.0)
    assert found.weighted_f == pytest.approx(1.0)
    assert found.mae == 0.0
    # only threshold 0 takes all pixels in: alignment (0 + 1)^2 / 4, Dice 2 s / (1 + s), IoU s
    share = square.mean()
    assert found.e_measure == pytest.approx((255 + 0.25) / 256)
    assert found.mean_dice == pytest.approx((255 + 2 * share / (1 + share)) / 256)
    assert found.mean_iou == pytest.approx((255 + share) / 256)


def test_a_constant_map_tells_nothing(square: np.ndarray) -> None:
    half = np.full(square.shape, 0.5)
    found = saliency_metrics(half, square)
    assert found.mae == pytest.approx(0.5)
    # objects: 2 x / (x^2 + 1) on both sides; regions: no covariance anywhere
    assert found.s_measure == pytest.approx(0.5 * (2 * 0.5 / 1.25))
    # all pixels up to threshold 127, none above: a quarter of full alignment throughout
    assert found.e_measure == pytest.approx(0.25)
    assert saliency_metrics(half, square, stretch=True) == found


def test_an_inverted_map_is_as_wrong_as_can_be(square: np.ndarray) -> None:
    found = saliency_metrics(1.0 - square, square)
    assert found.mae == 1.0
    assert found.s_measure == 0.0
    assert found.weighted_f == pytest.approx(0.0, abs=1e-12)
    assert found.e_measure == pytest.approx(0.25 / 256)


def test_weighted_f_forgives_a_hole_less_far_from_the_object(square: np.ndarray) -> None:
    near, far = square.astype(float), square.astype(float)
    near[13, 12] = 1.0
    far[19, 23] = 1.0
    assert weighted_f(near, square) > weighted_f(far, square)
    # one false pixel at distance 1: weight 2 - 0.5^(1/5)
    weight = 2 - 0.5 ** (1 / 5)
    precision = 80 / (80 + weight)
    assert weighted_f(near, square) == pytest.approx(2 * precision / (1 + precision), abs=1e-9)


def test_empty_and_full_references() -> None:
    nothing, everything = np.zeros((6, 6), bool), np.ones((6, 6), bool)
    p = np.full((6, 6), 0.2)
    assert s_measure(p, nothing) == pytest.approx(0.8)
    assert s_measure(p, everything) == pytest.approx(0.2)
    assert weighted_f(p, nothing) == 0.0
    assert weighted_f(np.zeros((6, 6)), nothing) == 1.0
    clean = saliency_metrics(np.zeros((6, 6)), nothing)
    assert (clean.mae, clean.s_measure) == (0.0, 1.0)
    # of 256 thresholds only 0 finds something
    assert clean.e_measure == clean.mean_dice == clean.mean_iou == pytest.approx(255 / 256)
    assert saliency_metrics(everything.astype(float), everything).e_measure == 1.0


def test_stretching_uses_the_whole_range(square: np.ndarray) -> None:
    faint = 0.3 + 0.1 * square
    assert saliency_metrics(faint, square, stretch=True).mae == pytest.approx(0.0, abs=1e-12)
    assert saliency_metrics(faint, square).mae > 0.3


def test_a_public_implementation_finds_the_same() -> None:
    oracle = pytest.importorskip("py_sod_metrics", reason="pip install pysodmetrics")
    rng = np.random.default_rng(3)
    rows, cols = np.ogrid[:47, :52]
    for number in range(3):
        truth = (rows - 20) ** 2 + (cols - 25 + number) ** 2 < (8 + number) ** 2
        blob = 0.8 * np.exp(-((rows - 22) ** 2 + (cols - 23) ** 2) / 150)
        grey = np.rint(255 * np.clip(blob + 0.1 * rng.random(truth.shape), 0, 1)).astype(np.uint8)
        grey[0, :2] = 0, 255  # it stretches
        judges = [oracle.Smeasure(), oracle.WeightedFmeasure(), oracle.Emeasure(), oracle.MAE()]
        for judge in judges:
            judge.step(pred=grey, gt=255 * truth.astype(np.uint8))
        s, wf, e, mae = (judge.get_results() for judge in judges)
        found = saliency_metrics(grey / 255, truth)
        assert found.s_measure == pytest.approx(s["sm"], abs=1e-9)
        assert found.weighted_f == pytest.approx(wf["wfm"], abs=1e-9)
        # it divides by one pixel less
        less = (truth.size - 1) / truth.size
        assert found.e_measure == pytest.approx(e["em"]["curve"].mean() * less, abs=1e-9)
        assert found.mae == pytest.approx(mae["mae"], abs=1e-9)


def test_refusals(square: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pictures of one shape"):
        saliency_metrics(np.zeros((2, 2)), square)
    with pytest.raises(ValueError, match="logits need a sigmoid"):
        saliency_metrics(np.full(square.shape, -3.0), square)


def test_every_figure_is_defined() -> None:
    assert set(SALIENCY) == set(DEFINITIONS)
