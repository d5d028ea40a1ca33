"""All figures of one case and class, with empty masks defined instead of dropped."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer

from segkit.metrics.overlap import overlap
from segkit.metrics.surface import Definition, surface_distances

BOTH_EMPTY, EMPTY_PREDICTION, EMPTY_REFERENCE = "both_empty", "empty_prediction", "empty_reference"


@dataclass(frozen=True, slots=True)
class CaseMetrics:
    """Agreement of one predicted mask with its reference.

    `nsd` in [0, 1] at the tolerance asked for, `hd95_mm` and `assd_mm` in the unit of the spacing.
    `flags` says whether a mask was empty: both empty is Dice 1, IoU 1, NSD 1 and distance 0; one
    empty is Dice 0, IoU 0, NSD 0 and the diagonal of the image. No figure is ever NaN.
    """

    dice: float
    iou: float
    nsd: float
    hd95_mm: float
    assd_mm: float
    reference_voxels: int
    predicted_voxels: int
    flags: tuple[str, ...] = ()


def case_metrics(
    prediction: Bool[np.ndarray, "*shape"],
    reference: Bool[np.ndarray, "*shape"],
    spacing_mm: tuple[float, ...],
    *,
    tolerance_mm: float = 1.0,
    definition: Definition = "surfel",
) -> CaseMetrics:
    """Compare two masks on one grid, 2D or 3D; `spacing_mm` in array order (k, j, i).

    Example:
        >>> cube = np.zeros((32, 32, 32), dtype=bool)
        >>> cube[8:20, 8:20, 8:20] = True
        >>> figures = case_metrics(np.roll(cube, 1, axis=0), cube, (3.0, 1.0, 1.0))
        >>> round(figures.dice, 4), round(figures.nsd, 4), figures.hd95_mm
        (0.9167, 0.8582, 3.0)

    Raises:
        ValueError: Shapes or spacing do not fit, or the tolerance is negative.
    """
    if not 0 <= tolerance_mm < math.inf:
        raise ValueError(f"tolerance_mm must be >= 0, got {tolerance_mm}")
    if not all(0 < step < math.inf for step in spacing_mm):
        raise ValueError(f"spacing_mm must be > 0, got {spacing_mm}; check the header")
    counts = overlap(prediction, reference)
    if flag := _empty_flag(counts.prediction, counts.reference):
        agrees = flag == BOTH_EMPTY
        nsd = float(agrees)
        far = math.hypot(*(n * step for n, step in zip(reference.shape, spacing_mm, strict=True)))
        hd95_mm = assd_mm = 0.0 if agrees else far
    else:
        distances = surface_distances(prediction, reference, spacing_mm, definition=definition)
        nsd, hd95_mm, assd_mm = (
            distances.nsd(tolerance_mm),
            distances.hausdorff_mm(95),
            distances.assd_mm(),
        )
    return CaseMetrics(
        dice=counts.dice,
        iou=counts.iou,
        nsd=nsd,
        hd95_mm=hd95_mm,
        assd_mm=assd_mm,
        reference_voxels=counts.reference,
        predicted_voxels=counts.prediction,
        flags=(flag,) if flag else (),
    )


def _empty_flag(predicted: int, reference: int) -> str | None:
    if predicted and reference:
        return None
    if predicted or reference:
        return EMPTY_REFERENCE if predicted else EMPTY_PREDICTION
    return BOTH_EMPTY


def label_metrics(
    prediction: Integer[np.ndarray, "*shape"],
    reference: Integer[np.ndarray, "*shape"],
    classes: Iterable[int],
    spacing_mm: tuple[float, ...],
    *,
    tolerance_mm: float = 1.0,
    definition: Definition = "surfel",
) -> dict[int, CaseMetrics]:
    """Compare two label arrays class by class; keys are the voxel values in `classes`."""
    return {
        value: case_metrics(
            prediction == value,
            reference == value,
            spacing_mm,
            tolerance_mm=tolerance_mm,
            definition=definition,
        )
        for value in classes
    }


def describe_metrics(definition: Definition, tolerance_mm: float, unit: str) -> dict[str, str]:
    """One sentence per figure, for the head of a result file; `unit` is "mm" or "px"."""
    surface = {
        "surfel": "marching-cubes surface elements weighted by area (DeepMind surface-distance)",
        "voxel": "face-connected edge voxels, unweighted (MONAI default)",
    }[definition]
    empties = "both empty: {}; one empty: {}, flagged"
    return {
        "dice": f"2|A∩B| / (|A|+|B|) per case and class; {empties.format('1', '0')}",
        "iou": f"|A∩B| / |A∪B| per case and class; {empties.format('1', '0')}",
        "nsd": (
            f"normalised surface Dice at {tolerance_mm:g} {unit}; {surface}; "
            f"{empties.format('1', '0')}"
        ),
        "hd95_mm": (
            f"larger directed 95th percentile of surface distances in {unit}; {surface}; "
            f"{empties.format('0', 'diagonal of the case')}"
        ),
        "assd_mm": (
            f"mean surface distance pooled over both surfaces in {unit}; {surface}; "
            f"{empties.format('0', 'diagonal of the case')}"
        ),
    }
