"""Intervals and tests over cases: the unit that is drawn again is the subject, never the voxel."""

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy import stats

from segkit.errors import InputError

Method = Literal["percentile", "bca"]


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made: `resamples` bootstrap draws from `seed` at confidence `level`."""

    resamples: int = 2000
    level: float = 0.95
    method: Method = "percentile"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise InputError(f"resamples must be >= 100, got {self.resamples}; 2000 is usual")
        if not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, got {self.level}")
        if self.method not in get_args(Method):
            raise InputError(f"method must be one of {get_args(Method)}, got {self.method!r}")


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over cases with its confidence interval.

    `low` and `high` are None where there is only one subject: its spread is unknown.
    """

    mean: float
    low: float | None
    high: float | None
    median: float

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON, as `summary.json` holds them."""
        return {"mean": self.mean, "ci95": [self.low, self.high], "median": self.median}


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of paired differences a - b, its interval, and the Wilcoxon signed-rank test.

    `p_value` is two-sided over subject means; None with fewer than two subjects that differ.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    subjects: int

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "mean": self.mean,
            "ci95": [self.low, self.high],
            "p_wilcoxon": self.p_value,
            "subjects": self.subjects,
        }


def mean_interval(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    resampling: Resampling = Resampling(),
) -> Interval:
    """Mean over cases with a bootstrap interval.

    `groups` names the subject of each case; whole subjects are drawn, so that several scans of one
    subject do not count as independent. Without it every case is its own subject.

    Raises:
        ValueError: No values, a value that is not finite, or as many groups as values are missing.
    """
    sums, counts = _by_subject(values, groups)
    low, high = _bootstrap(sums, counts, resampling)
    return Interval(float(np.mean(values)), low, high, float(np.median(values)))


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    resampling: Resampling = Resampling(),
) -> Difference:
    """Compare two methods on the same cases, in the same order.

    Raises:
        ValueError: The sequences differ in length, are empty or hold values that are not finite.
    """
    if len(first) != len(second):
        raise ValueError(f"paired values must match, got {len(first)} and {len(second)}")
    values = np.subtract(first, second)
    sums, counts = _by_subject(values.tolist(), groups)
    low, high = _bootstrap(sums, counts, resampling)
    by_subject = sums / counts
    differing = np.count_nonzero(by_subject)
    p_value = float(stats.wilcoxon(by_subject).pvalue) if differing >= 2 else None
    return Difference(float(values.mean()), low, high, p_value, len(sums))


def _by_subject(
    values: Sequence[float], groups: Sequence[Hashable] | None
) -> tuple[Float[np.ndarray, " subjects"], Float[np.ndarray, " subjects"]]:
    """Sum and number of the values of each subject."""
    if not len(values) or not all(map(math.isfinite, values)):
        raise ValueError(f"values must be finite and at least one, got {list(values)[:6]}")
    if groups is None:
        groups = range(len(values))
    if len(groups) != len(values):
        raise ValueError(f"one group per value is needed, got {len(groups)} for {len(values)}")
    order = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    index = [order[group] for group in groups]
    counts = np.bincount(index).astype(np.float64)
    return np.bincount(index, weights=np.asarray(values, dtype=np.float64)), counts


def _bootstrap(
    sums: Float[np.ndarray, " subjects"],
    counts: Float[np.ndarray, " subjects"],
    resampling: Resampling,
) -> tuple[float, float] | tuple[None, None]:
    if len(sums) < 2:
        return None, None
    means = sums / counts
    if np.ptp(means) == 0:
        return float(means[0]), float(means[0])
    # the corrections of BCa need a jackknife that varies; few or tied subjects fall back
    for method in (resampling.method, "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (sums, counts),
                lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
                n_resamples=resampling.resamples,
                confidence_level=resampling.level,
                method="BCa" if method == "bca" else "percentile",
                paired=True,
                vectorized=True,
                rng=np.random.default_rng(resampling.seed),
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return float(found.low), float(found.high)
