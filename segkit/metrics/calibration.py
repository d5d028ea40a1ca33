"""Are probabilities right (calibration), and does uncertainty point at errors (sparsification)?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

BINS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Reliability diagram of foreground probabilities: voxels in bins of equal width over [0, 1].

    `probability` and `truth` are sums over the voxels of each bin; counts of several cases add up
    with `+`, so memory does not grow with the number of voxels.

    Example:
        >>> half = calibration(np.full((4, 4), 0.5), np.eye(4, dtype=bool))
        >>> half.ece, (half + half).voxels
        (0.25, 32)
    """

    counts: NDArray[np.int64]
    probability: Float[np.ndarray, " bins"]
    truth: Float[np.ndarray, " bins"]

    @property
    def voxels(self) -> int:
        """Number of voxels counted."""
        return int(self.counts.sum())

    @property
    def gaps(self) -> Float[np.ndarray, " bins"]:
        """|mean probability - share of foreground| of each bin; 0 where a bin is empty."""
        return np.abs(self.probability - self.truth) / np.maximum(self.counts, 1)

    @property
    def ece(self) -> float:
        """Expected calibration error: gaps weighted by the voxels in each bin; 0 without voxels.

        Source: "On Calibration of Modern Neural Networks" (Guo et al., ICML 2017), equation 3, on
        the probability of the foreground.
        """
        return float((self.gaps * self.counts).sum() / max(self.voxels, 1))

    @property
    def mce(self) -> float:
        """Maximum calibration error: the largest gap."""
        return float(self.gaps.max())

    def __add__(self, other: "Calibration") -> "Calibration":
        if len(self.counts) != len(other.counts):
            raise ValueError(f"bins must agree, got {len(self.counts)} and {len(other.counts)}")
        return Calibration(
            self.counts + other.counts,
            self.probability + other.probability,
            self.truth + other.truth,
        )


def calibration(
    probability: Float[np.ndarray, "..."], truth: Bool[np.ndarray, "..."], *, bins: int = BINS
) -> Calibration:
    """Sort the voxels of one case into bins [low, high); the last one holds 1 too.

    Raises:
        ValueError: Shapes differ, a probability lies outside [0, 1], or `bins` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be >= 1, got {bins}")
    _check_maps(probability, truth)
    p, t = probability.ravel(), truth.ravel()
    index = np.minimum((p * bins).astype(np.int64), bins - 1)
    return Calibration(
        np.bincount(index, minlength=bins),
        np.bincount(index, weights=p, minlength=bins),
        np.bincount(index, weights=t, minlength=bins),
    )


@dataclass(frozen=True, slots=True)
class Sparsification:
    """Areas under sparsification-error curves; see `sparsification`.

    `ause` is that of the uncertainty, `unranked` that of voxels left out in random order. Both are
    0 where nothing is wrong.
    """

    ause: float
    unranked: float


def sparsification(
    uncertainty: Float[np.ndarray, "..."], error: Float[np.ndarray, "..."], *, steps: int = 100
) -> Sparsification:
    """Leave out voxels from the most uncertain on, and compare with the order of a true oracle.

    The curve is the mean error of the voxels that are left when a share of 0, 1/steps, ... is left
    out, divided by the mean error of all; the sparsification error is its height above the curve
    that leaves the largest errors out first, and `ause` the mean of that over the shares. 0 is a
    perfect ranking. Voxels of equal uncertainty leave together, each with its share.

    Source: "Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow" (Ilg et al.,
    ECCV 2018), section 5.1.

    Raises:
        ValueError: Shapes differ, an error is negative, or there is no voxel.
    """
    if uncertainty.shape != error.shape or not error.size:
        raise ValueError(
            f"uncertainty and error must have one shape and at least one voxel, got "
            f"{uncertainty.shape} and {error.shape}"
        )
    flat = error.ravel().astype(np.float64)
    if flat.min() < 0:
        raise ValueError(f"errors must be >= 0, got {flat.min()}")
    if not flat.any():
        return Sparsification(0.0, 0.0)
    shares = np.arange(steps) / steps
    best = _curve(flat, flat, shares)
    own = _curve(uncertainty.ravel(), flat, shares)
    return Sparsification(float((own - best).mean()), float((1 - best).mean()))


def _curve(
    ranking: Float[np.ndarray, " n"],
    error: Float[np.ndarray, " n"],
    shares: Float[np.ndarray, " steps"],
) -> Float[np.ndarray, " steps"]:
    """Mean error of what is left, relative to that of all."""
    order = np.argsort(-ranking, kind="stable")
    values, n = ranking[order], len(order)
    removed = np.concatenate([[0.0], np.cumsum(error[order])])
    # ends of runs of equal rank; between them every voxel leaves in equal measure
    ends = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [n]])
    left = removed[-1] - np.interp(shares * n, ends, removed[ends])
    return (left / (n * (1 - shares))) / (removed[-1] / n)


def _check_maps(probability: Float[np.ndarray, "..."], truth: Bool[np.ndarray, "..."]) -> None:
    if probability.shape != truth.shape:
        raise ValueError(
            f"probability and truth must have one shape, got {probability.shape} and {truth.shape}"
        )
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise ValueError(
            f"probabilities must lie in [0, 1], got {probability.min()} to {probability.max()}; "
            "logits need a sigmoid first"
        )
