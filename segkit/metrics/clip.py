"""Figures of one object through a clip: J, F, J&F, and how evenly it changes."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool

from segkit.metrics.boundary import boundary_f
from segkit.metrics.overlap import overlap

Masks = Bool[np.ndarray, "frames rows columns"]

CLIP_FIGURES = {
    "j": "mean IoU over the labelled frames after the first, which is shown; both empty: 1",
    "f": (
        "mean F measure of outlines within 0.8 % of the frame's diagonal, rounded up (DAVIS, as "
        "SAM 2 uses it), over the same frames; both empty: 1, one empty: 0"
    ),
    "j_and_f": "mean of J and F",
    "stack_dice": (
        "Dice of the same frames as one volume: large frames count more, and a frame that shows "
        "nothing counts what is found on it; both empty: 1"
    ),
    "consistency": (
        "1 - mean over consecutive labelled frames of |a - b|, a the IoU of the two predictions, b "
        "that of the two references; the first frame counts as shown in both"
    ),
}
"""Definition by name of each figure."""


@dataclass(frozen=True, slots=True)
class ClipMetrics:
    """Figures in [0, 1], better if higher; defined in `CLIP_FIGURES`."""

    j: float
    f: float
    stack_dice: float
    consistency: float

    @property
    def j_and_f(self) -> float:
        """Mean of J and F."""
        return (self.j + self.f) / 2


def clip_metrics(prediction: Masks, reference: Masks) -> ClipMetrics:
    """Compare the labelled frames of a clip; the first was shown and is not measured.

    Source: "The 2017 DAVIS Challenge on Video Object Segmentation" (Pont-Tuset et al., 2017) for J
    and F, which leaves out the last frame too; here it counts.

    Example:
        >>> square = np.zeros((3, 48, 64), dtype=bool)
        >>> square[:, 10:30, 20:40] = True
        >>> found = clip_metrics(np.roll(square, 10, axis=1), square)
        >>> round(found.j, 3), round(found.consistency, 3)
        (0.333, 0.667)

    Raises:
        ValueError: Shapes differ, or there is no frame to measure.
    """
    if prediction.shape != reference.shape or len(reference) < 2:
        raise ValueError(
            "a clip needs two labelled frames or more, and as many predictions, got "
            f"{prediction.shape} and {reference.shape}"
        )
    pairs = list(zip(prediction[1:], reference[1:], strict=True))
    found, wanted = _steps([reference[0], *prediction[1:]]), _steps(list(reference))
    return ClipMetrics(
        j=float(np.mean([overlap(*pair).iou for pair in pairs])),
        f=float(np.mean([boundary_f(*pair) for pair in pairs])),
        stack_dice=overlap(prediction[1:], reference[1:]).dice,
        consistency=float(1 - np.abs(found - wanted).mean()),
    )


def _steps(masks: list[np.ndarray]) -> np.ndarray:
    """IoU of each mask with the next."""
    return np.array([overlap(one, other).iou for one, other in pairwise(masks)])
