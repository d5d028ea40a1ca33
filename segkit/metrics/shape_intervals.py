"""95 % intervals of measurements under the uncertainty of the masks they are made on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from segkit.geometry import Geometry
from segkit.metrics.measurements import Measurements, measure
from segkit.metrics.shapes import INTERVAL, fit_ellipse, interval, relate_masks

Pair = tuple[float, float]
Probability = Float[np.ndarray, "..."]


@dataclass(frozen=True, slots=True, eq=False)
class _Mask:
    """A mask on a grid, as `measure` wants it."""

    array: np.ndarray
    geometry: Geometry
    labels: Mapping[int, str] = field(default_factory=dict)
    path: Path | None = None


def label_intervals(probability: Float[np.ndarray, "k j i"], geometry: Geometry) -> dict[str, Pair]:
    """Volume and longest diameter of one label.

    Raises:
        InputError: The values are no probabilities.
    """
    wanted: dict[str, Callable[[Measurements], float]] = {
        "volume_ml": lambda found: found.labels[0].volume_ml,
        "longest_mm": lambda found: found.labels[0].diameters.longest_mm,
    }

    def value(inside: Bool[np.ndarray, "k j i"], name: str) -> float:
        return wanted[name](measure(_Mask(inside.astype(np.uint8), geometry)))

    return {
        name: interval(probability, lambda inside, name=name: value(inside, name))  # type: ignore[misc]
        for name in wanted
    }


def picture_intervals(
    probability: Float[np.ndarray, "rows columns"], spacing_mm: Pair
) -> dict[str, Pair]:
    """Area, axes and circumference of the one label of a picture; `spacing_mm` is (row, column).

    Raises:
        InputError: The values are no probabilities.
    """
    found: dict[str, Pair] = {
        "area_mm2": interval(probability, lambda m: float(m.sum()) * spacing_mm[0] * spacing_mm[1])
    }
    for name in ("major_mm", "minor_mm", "circumference_mm"):

        def value(inside: Bool[np.ndarray, "rows columns"], name: str = name) -> float:
            return float(getattr(fit_ellipse(inside, spacing_mm), name))

        found[name] = interval(probability, value)
    return found


def relation_intervals(
    first: Float[np.ndarray, "k j i"], second: Float[np.ndarray, "k j i"], geometry: Geometry
) -> dict[str, Pair | None]:
    """Gap, distance of centroids and angle of two labels whose borders move independently.

    From the four pairs of their smallest and largest masks; None where no pair has the figure.

    Raises:
        InputError: The values are no probabilities, or the lattice is sheared.
    """
    for each in (first, second):
        interval(each, lambda inside: float(inside.any()))  # checks the values
    found = [relate_masks(one, two, geometry) for one, two in _pairs(first, second)]
    spans: dict[str, Pair | None] = {}
    for number, name in enumerate(("gap_mm", "centroids_mm", "axis_angle_deg")):
        values = [value for one in found if (value := one[number]) is not None]
        spans[name] = (min(values), max(values)) if values else None
    return spans


def change_intervals(before: Pair, after: Pair) -> dict[str, Pair | None]:
    """Difference and percentage of change between two intervals of one figure.

    The two scans are taken as independent, so that the extremes of one meet those of the other; the
    percentage refers to the earlier scan and is None where that may be nothing at all.
    """
    difference = (after[0] - before[1], after[1] - before[0])
    if before[0] <= 0:
        return {"difference": difference, "percent": None}
    ends = [100 * (late / early - 1) for late, early in product(after, before)]
    return {"difference": difference, "percent": (min(ends), max(ends))}


def _pairs(first: Probability, second: Probability) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for one, two in product(INTERVAL, INTERVAL):
        masks = first > one, second > two
        if masks[0].any() and masks[1].any():
            yield masks
