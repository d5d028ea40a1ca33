"""Agreement of outlines, as video benchmarks measure it."""

import math

import edt
import numpy as np
from jaxtyping import Bool

Mask = Bool[np.ndarray, "rows columns"]
_SHARE = 0.008  # of the diagonal: how far apart outlines may lie


def boundary_f(prediction: Mask, reference: Mask, *, tolerance_px: float | None = None) -> float:
    """F measure of outlines: harmonic mean of the shares that have the other one nearby.

    Nearby is `tolerance_px`, by default 0.8 % of the diagonal, rounded up. Two masks without an
    outline agree (1); one without gives 0. Source: "A Benchmark Dataset and Evaluation Methodology
    for Video Object Segmentation" (Perazzi et al., CVPR 2016), section 4; outlines and tolerance as
    in the evaluation of SAM 2.

    Example:
        >>> square = np.zeros((96, 128), dtype=bool)
        >>> square[20:60, 30:70] = True
        >>> boundary_f(np.roll(square, 2, axis=0), square), boundary_f(~square & False, square)
        (1.0, 0.0)

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction and reference must have one shape, got {prediction.shape} and "
            f"{reference.shape}; bring the prediction to the grid of the reference first"
        )
    reach = (
        math.ceil(_SHARE * math.hypot(*reference.shape)) if tolerance_px is None else tolerance_px
    )
    found, wanted = outline(prediction), outline(reference)
    if not (found.any() and wanted.any()):
        return float(found.any() == wanted.any())
    precision = float((_distance(wanted)[found] <= reach).mean())
    recall = float((_distance(found)[wanted] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline(mask: Mask) -> Mask:
    """Pixels that differ from the one to the right, below, or both; the border is none."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return (here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:])


def _distance(outline_: Mask) -> np.ndarray:
    """Distance of every pixel to the nearest one of an outline, in pixels."""
    return edt.edt(~outline_)
