"""Overlap of two masks: Dice and intersection over union, with defined empties."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxel counts of a pair of masks and what follows from them.

    Two empty masks agree: Dice and IoU are 1. One empty mask gives 0.
    """

    prediction: int
    reference: int
    intersection: int

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|)."""
        total = self.prediction + self.reference
        return 2 * self.intersection / total if total else 1.0

    @property
    def iou(self) -> float:
        """|A and B| / |A or B|."""
        union = self.prediction + self.reference - self.intersection
        return self.intersection / union if union else 1.0


def overlap(prediction: Bool[np.ndarray, "..."], reference: Bool[np.ndarray, "..."]) -> Overlap:
    """Count the voxels of two masks of equal shape.

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference must have one shape, got {prediction.shape} and "
            f"{reference.shape}; bring the prediction to the grid of the reference first"
        )
    return Overlap(
        prediction=int(np.count_nonzero(prediction)),
        reference=int(np.count_nonzero(reference)),
        intersection=int(np.count_nonzero(prediction & reference)),
    )
