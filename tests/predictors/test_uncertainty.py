"""Samples of a mask: what they agree on, and where a click would help."""

from collections.abc import Callable

import numpy as np
import pytest

from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.models import build
from segkit.predictors import VolumePredictor
from segkit.predictors.base import Predictor
from segkit.predictors.uncertainty import Ensemble, Sampling
from segkit.predictors.watch import CancelledError

FEW = Sampling(samples=4, dropout=0.0)  # the models of these tests have one channel


def test_without_noise_all_samples_agree_with_the_mask() -> None:
    session = Predictor(build.sam_tiny(), device="cpu").open(np.zeros((40, 52), np.uint8))
    session.add_box(((8, 8), (30, 40))).add_points([(20, 20)], [1])
    still = session.ensemble(Sampling(samples=2, jitter=0.0, dropout=0.0))
    assert still.agreement == 1.0
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-session.logits()))
    np.testing.assert_allclose(still.probability, expected, atol=1e-6)
    np.testing.assert_allclose(still.entropy, session.uncertainty(), atol=1e-4)


def test_samples_repeat_differ_and_encode_nothing_again(
    bright: Callable[..., VolumePredictor], a_scan: Callable[..., Volume]
) -> None:
    predictor = bright(side=64)
    scan = a_scan((3, 64, 64), ((1, 10, 10), (2, 30, 30)))
    session = predictor.open(scan).add_box(((1, 8, 8), (2, 32, 32)))
    mask, encoded = session.mask(), predictor.model.encoded  # type: ignore[attr-defined]
    first, second = (
        session.ensemble(Sampling(samples=6, jitter=0.2, dropout=0.0)) for _ in range(2)
    )
    assert predictor.model.encoded == encoded  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first.probability, second.probability)
    other = session.ensemble(Sampling(samples=6, jitter=0.2, dropout=0.0, seed=1))
    assert (first.probability != other.probability).any()
    np.testing.assert_array_equal(session.mask(), mask)
    # marks stay on their slice: the others were never decoded
    assert not first.probability[[0, 2]].any()
    assert first.probability[1].any()
    assert 0.5 < first.agreement < 1
    assert 0.5 < first.dice < 1
    # the inside is sure, the rim of the object depends on the box
    assert first.entropy[1, 20, 20] < 0.1 < first.entropy[1, 10, 10:30].max()


def test_blocks_are_sampled_too(
    bright: Callable[..., VolumePredictor], a_scan: Callable[..., Volume]
) -> None:
    predictor = bright(side=16, patch=(16, 16, 16))
    scan = a_scan((16, 16, 16), ((4, 4, 4), (12, 12, 12)), spacing_mm=(1.0, 1.0, 1.0))
    found = predictor.open(scan).add_box(((4, 4, 4), (12, 12, 12))).ensemble(FEW)
    assert found.probability.shape == scan.array.shape
    assert found.dice > 0.8
    assert found.next_click() is not None


def test_samples_repeat_propagation_and_given_masks(
    bright: Callable[..., VolumePredictor], a_scan: Callable[..., Volume]
) -> None:
    scan = a_scan((5, 32, 32), ((0, 8, 8), (5, 24, 24)))
    session = bright(side=32).open(scan).add_box(((2, 8, 8), (3, 24, 24))).propagate()
    assert session.ensemble(FEW).probability.max(axis=(1, 2)).min() > 0.9
    given = bright(side=32).open(scan).add_mask(scan.array > 0).ensemble(FEW)
    assert given.agreement == 1.0
    assert given.dice > 0.99


def test_clicks_do_not_cross_the_border_of_the_mask(
    bright: Callable[..., VolumePredictor], a_scan: Callable[..., Volume]
) -> None:
    predictor = bright(side=32)
    scan = a_scan((1, 32, 32), ((0, 4, 4), (1, 28, 9)))
    session = predictor.open(scan).add_points([(0, 16, 6)], [1])
    assert session.ensemble(Sampling(samples=20, jitter=0.4, dropout=0.0)).agreement == 1.0


def test_next_click_goes_to_the_middle_of_the_likeliest_error() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 5:15] = True
    p = np.where(mask, 0.99, 0.0)
    p[12:20, 22:32] = 0.4  # a region that may be missing
    p[35, 35] = 0.5  # one pixel more uncertain than that
    found = Ensemble(mask, p, 1.0, reach=(2.0, 2.0))
    row, col = found.next_click() or (0, 0)
    assert abs(row - 15.5) <= 1
    assert abs(col - 26.5) <= 1
    # not where the user has clicked already
    again = Ensemble(mask, p, 1.0, ((float(row), float(col)),), (2.0, 2.0)).next_click()
    assert again is not None
    assert np.hypot(again[0] - row, again[1] - col) >= 2
    assert Ensemble(mask, mask.astype(float), 1.0, reach=(2.0, 2.0)).next_click() is None


def test_expected_dice_of_known_probabilities() -> None:
    mask = np.array([True, True, False, False])
    # 2 (0.9 + 0.5) / (2 + 1.6)
    found = Ensemble(mask, np.array([0.9, 0.5, 0.2, 0.0]), 1.0)
    assert found.dice == pytest.approx(2.8 / 3.6)
    np.testing.assert_allclose(found.entropy, [0.469, 1.0, 0.7219, 0.0], atol=1e-3)
    assert Ensemble(np.zeros(3, bool), np.zeros(3), 1.0).dice == 1.0


def test_session_suggests_a_click_on_a_picture() -> None:
    picture = Picture(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    session = Predictor(build.sam_tiny(), device="cpu").open(picture).add_points([(20, 30)], [1])
    place = session.suggest_click(FEW)
    assert place is not None
    assert 0 <= place[0] < 48
    assert 0 <= place[1] < 64
    session.add_points([place], [0])
    assert session.suggest_click(FEW) != place


def test_sampling_stops_when_asked() -> None:
    session = Predictor(build.sam_tiny(), device="cpu").open(np.zeros((40, 52), np.uint8))
    session.add_points([(20, 20)], [1])
    seen: list[tuple[int, int]] = []
    session.ensemble(FEW, progress=lambda *done: seen.append(done))
    assert seen == [(n, 4) for n in range(5)]
    with pytest.raises(CancelledError, match="stopped after 0 of 4"):
        session.ensemble(FEW, cancel=lambda: True)
    with pytest.raises(InputError, match="no prompt given"):
        Predictor(build.sam_tiny(), device="cpu").open(np.zeros((9, 9), np.uint8)).ensemble()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be >= 1, got 0"),
        ({"jitter": 0.5}, "jitter must be in"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_sampling_refuses_what_makes_no_sense(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**options)  # type: ignore[arg-type]
