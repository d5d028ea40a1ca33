"""Intervals: coverage, subjects as units, reproducibility, and what happens with little data."""

import numpy as np
import pytest
from scipy import stats

from segkit.evaluation.statistics import Resampling, mean_interval, paired_difference

QUICK = Resampling(resamples=400)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        found = mean_interval(rng.normal(0.7, 0.1, 40).tolist(), resampling=QUICK)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.7 <= found.high
    assert 85 <= hits <= 99


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_interval_equals_scipy_on_plain_cases(method: str) -> None:
    values = np.random.default_rng(1).beta(8, 2, 30)
    found = mean_interval(values.tolist(), resampling=Resampling(method=method))
    expected = stats.bootstrap((values,), np.mean, method=method, n_resamples=20_000, rng=1)
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.004)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.004)
    assert found.median == pytest.approx(np.median(values))


def test_repeated_scans_of_a_subject_widen_the_interval() -> None:
    subjects = np.random.default_rng(2).normal(0.7, 0.1, 12)
    values, groups = np.repeat(subjects, 5).tolist(), np.repeat(np.arange(12), 5).tolist()
    plain = mean_interval(values, resampling=QUICK)
    grouped = mean_interval(values, groups, resampling=QUICK)
    assert plain.mean == grouped.mean
    assert grouped.high - grouped.low > 1.8 * (plain.high - plain.low)


def test_unequal_groups_keep_the_mean_over_cases() -> None:
    found = mean_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], resampling=QUICK)
    assert found.mean == 0.75
    assert (found.low, found.high) == (0.0, 1.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(3).random(20).tolist()
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, resampling=Resampling(seed=1))


def test_one_subject_has_no_interval() -> None:
    found = mean_interval([0.5, 0.7], ["a", "a"])
    assert found.to_dict() == {"mean": 0.6, "ci95": [None, None], "median": 0.6}


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_equal_values_have_an_interval_of_width_zero(method: str) -> None:
    found = mean_interval([1.0] * 5, resampling=Resampling(method=method))
    assert (found.low, found.high) == (1.0, 1.0)


def test_bca_falls_back_where_it_is_undefined() -> None:
    found = mean_interval([0.0, 1.0], resampling=Resampling(method="bca"))
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_paired_difference_finds_a_small_but_steady_gain() -> None:
    base = np.random.default_rng(4).random(30)
    gain = 0.02 + 0.01 * np.random.default_rng(5).random(30)
    found = paired_difference((base + gain).tolist(), base.tolist(), resampling=QUICK)
    assert found.mean == pytest.approx(gain.mean())
    assert found.low > 0.02
    assert found.p_value < 1e-6
    assert found.subjects == 30


def test_equal_methods_have_no_p_value() -> None:
    found = paired_difference([0.5, 0.6], [0.5, 0.6])
    assert found.to_dict() == {
        "mean": 0.0,
        "ci95": [0.0, 0.0],
        "p_wilcoxon": None,
        "subjects": 2,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), r"at least one, got \[\]"),
        (lambda: mean_interval([float("nan")]), r"finite and at least one, got \[nan\]"),
        (lambda: mean_interval([1.0], ["a", "b"]), "one group per value is needed, got 2 for 1"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "paired values must match, got 1 and 2"),
        (lambda: Resampling(resamples=3), "resamples must be >= 100, got 3"),
        (lambda: Resampling(level=1.0), "level must lie between 0 and 1, got 1.0"),
        (lambda: Resampling(method="basic"), "method must be one of .*got 'basic'"),
    ],
)
def test_wrong_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
