"""Metrics of the polyp and camouflage literature: probability maps of pictures against a mask.

All are per picture and are averaged over pictures by the caller. Thresholds are t / 255 for
t = 0, ..., 255, and a pixel belongs to the object where its probability is at least the threshold.
Closed forms and a public implementation are in the tests.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

THRESHOLDS = 256
_EPS = np.spacing(1)
_ALPHA = 0.5  # weight of objects against regions in the S-measure
_BETA2 = 1.0  # weight of recall in the weighted F-measure

Probability = Float[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]


@dataclass(frozen=True, slots=True)
class SaliencyMetrics:
    """Figures of one picture; `DEFINITIONS` says what each is."""

    s_measure: float
    weighted_f: float
    e_measure: float
    mae: float
    mean_dice: float
    mean_iou: float


SALIENCY = tuple(field.name for field in fields(SaliencyMetrics))
DEFINITIONS = {
    "s_measure": "S-measure (Fan et al., ICCV 2017), alpha 0.5, per picture",
    "weighted_f": "weighted F-measure (Margolin et al., CVPR 2014), beta 1, per picture",
    "e_measure": "E-measure (Fan et al., IJCAI 2018), mean over 256 thresholds, per picture",
    "mae": "mean absolute difference of probability and mask, per picture",
    "mean_dice": "Dice, mean over 256 thresholds (as PraNet's mDice), per picture",
    "mean_iou": "IoU, mean over 256 thresholds (as PraNet's mIoU), per picture",
}


def saliency_metrics(
    probability: Probability, truth: Mask, *, stretch: bool = False
) -> SaliencyMetrics:
    """Compare a probability map with a mask of the same shape.

    `stretch` maps the smallest probability of the picture to 0 and the largest to 1 first, as the
    published protocols do; a picture without any object is then stretched too.

    Example:
        >>> mask = np.zeros((8, 8), dtype=bool)
        >>> mask[2:6, 3:7] = True
        >>> found = saliency_metrics(mask.astype(float), mask)
        >>> round(float(found.s_measure), 3), round(found.e_measure, 3), found.mae
        (1.0, 0.997, 0.0)

    Raises:
        ValueError: Shapes differ or are empty, or a probability lies outside [0, 1].
    """
    if probability.shape != truth.shape or probability.ndim != 2 or not truth.size:
        raise ValueError(
            f"probability and truth must be pictures of one shape, got {probability.shape} and "
            f"{truth.shape}"
        )
    p = probability.astype(np.float64)
    if not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(
            f"probabilities must lie in [0, 1], got {p.min()} to {p.max()}; logits need a sigmoid"
        )
    if stretch and p.max() > p.min():
        p = (p - p.min()) / (p.max() - p.min())
    curves = _Curves.of(p, truth)
    return SaliencyMetrics(
        s_measure=s_measure(p, truth),
        weighted_f=weighted_f(p, truth),
        e_measure=float(curves.e_measure().mean()),
        mae=float(np.abs(p - truth).mean()),
        mean_dice=float(curves.dice().mean()),
        mean_iou=float(curves.iou().mean()),
    )


def s_measure(probability: Probability, truth: Mask) -> float:
    """Structural similarity of objects and of the four regions around the centroid.

    Source: "Structure-measure" (Fan et al., ICCV 2017). Without an object it is 1 minus the mean
    probability, without background the mean probability.
    """
    share = float(truth.mean())
    if share in (0.0, 1.0):
        mean = float(probability.mean())
        return mean if share else 1 - mean
    inside = _object_score(probability[truth])
    outside = _object_score(1 - probability[~truth])
    objects = share * inside + (1 - share) * outside
    return max(0.0, _ALPHA * objects + (1 - _ALPHA) * _region_score(probability, truth))


def weighted_f(probability: Probability, truth: Mask) -> float:
    """F-measure with errors weighed by how far they lie and whether they fill gaps.

    Source: "How to Evaluate Foreground Maps?" (Margolin et al., CVPR 2014). Without an object it is
    1 if the map is 0 everywhere, else 0.
    """
    if not truth.any():
        return float(not probability.any())
    error = np.abs(probability - truth)
    distance, nearest = ndimage.distance_transform_edt(~truth, return_indices=True)
    # errors outside count as those of the nearest object pixel when neighbours are averaged
    spread = np.where(truth, error, error[tuple(nearest)])
    smooth = ndimage.convolve(spread, _gaussian(7, 5.0), mode="constant")
    eased = np.where(truth & (smooth < error), smooth, error)
    importance = np.where(truth, 1.0, 2 - np.exp(np.log(0.5) / 5 * distance))
    weighted = eased * importance
    true_positive = truth.sum() - weighted[truth].sum()
    false_positive = weighted[~truth].sum()
    recall = 1 - weighted[truth].mean()
    precision = true_positive / (true_positive + false_positive + _EPS)
    return float((1 + _BETA2) * recall * precision / (recall + _BETA2 * precision + _EPS))


@dataclass(frozen=True, slots=True, eq=False)
class _Curves:
    """Pixels of object and background at or above each threshold."""

    hits: Int[np.ndarray, " thresholds"]
    false: Int[np.ndarray, " thresholds"]
    objects: int
    pixels: int

    @classmethod
    def of(cls, probability: Probability, truth: Mask) -> "_Curves":
        # the number of thresholds at or below a probability, without rounding 8-bit maps down
        level = np.floor(probability * (THRESHOLDS - 1) + 1e-9).astype(np.int64)
        counts = [
            np.bincount(level[where], minlength=THRESHOLDS)[::-1].cumsum()[::-1]
            for where in (truth, ~truth)
        ]
        return cls(counts[0], counts[1], int(truth.sum()), truth.size)

    def dice(self) -> Float[np.ndarray, " thresholds"]:
        """2 |A and B| / (|A| + |B|); 1 where both are empty."""
        total = self.hits + self.false + self.objects
        return np.where(total, 2 * self.hits / np.maximum(total, 1), 1.0)

    def iou(self) -> Float[np.ndarray, " thresholds"]:
        """|A and B| / |A or B|; 1 where both are empty."""
        union = self.false + self.objects
        return np.where(union, self.hits / np.maximum(union, 1), 1.0)

    def e_measure(self) -> Float[np.ndarray, " thresholds"]:
        """Enhanced alignment of the mask at each threshold.

        Source: "Enhanced-alignment Measure" (Fan et al., IJCAI 2018). Difference: the mean is over
        all pixels, not over one less, so that equal masks have exactly 1.
        """
        background = self.pixels - self.objects
        found = (self.hits + self.false) / self.pixels
        if not self.objects or not background:
            return found if self.objects else 1 - found
        share = self.objects / self.pixels
        cells = (
            (self.hits, 1 - found, 1 - share),
            (self.false, 1 - found, -share),
            (self.objects - self.hits, -found, 1 - share),
            (background - self.false, -found, -share),
        )
        total = sum(
            count * (2 * guess * wanted / (guess**2 + wanted**2 + _EPS) + 1) ** 2 / 4
            for count, guess, wanted in cells
        )
        return np.asarray(total) / self.pixels


def _object_score(values: Float[np.ndarray, " n"]) -> float:
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _EPS)


def _region_score(probability: Probability, truth: Mask) -> float:
    """Similarity of the four quadrants around the centroid, weighted by their areas."""
    row, col = (int(value) + 1 for value in np.argwhere(truth).mean(axis=0).round())
    total = 0.0
    for rows in (slice(None, row), slice(row, None)):
        for cols in (slice(None, col), slice(col, None)):
            part = truth[rows, cols]
            if part.size:
                total += part.size / truth.size * _similarity(probability[rows, cols], part)
    return total


def _similarity(first: Probability, second: Mask) -> float:
    """Structural similarity of two maps as a whole; 1 where both are constant and 0."""
    x, y = float(first.mean()), float(second.mean())
    dx, dy = first - x, second - y
    last = max(first.size - 1, 1)
    xx, yy, xy = ((a * b).sum() / last for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    above, below = 4 * x * y * float(xy), (x**2 + y**2) * float(xx + yy)
    if above:
        return above / (below + _EPS)
    return float(below == 0)


def _gaussian(side: int, sigma: float) -> Float[np.ndarray, "side side"]:
    steps = np.arange(side) - side // 2
    line = np.exp(-(steps**2) / (2 * sigma**2))
    plane = np.outer(line, line)
    return plane / plane.sum()
