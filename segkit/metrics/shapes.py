"""Ellipses, relations of two structures, change between two scans, and intervals.

Companions of `segkit.metrics.measurements`, which holds volume, surface and diameters.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from edt import edt
from jaxtyping import Bool, Float, Shaped
from scipy.special import ellipe

from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.metrics.measurements import Measurements, longest_chord, longest_distance, outline

INTERVAL = (0.025, 0.975)
"""Probabilities between which a voxel counts as uncertain: a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Ellipse:
    """Ellipse with the area moments of a mask.

    Axes are full lengths. `angle_deg` is the direction of the major axis from the column axis
    towards growing rows, in (-90, 90]. `filled` is the share of mask and ellipse that agree (IoU of
    their areas is 1 for an ellipse): far below 1 the mask is no ellipse.
    """

    major_mm: float
    minor_mm: float
    angle_deg: float
    circumference_mm: float
    area_mm2: float
    filled: float


@dataclass(frozen=True, slots=True)
class PictureLabel:
    """Measurements of one label of a picture; `centroid_mm` is (row, column) from pixel (0, 0)."""

    value: int
    pixels: int
    area_mm2: float
    longest_mm: float
    perpendicular_mm: float
    centroid_mm: tuple[float, float]
    ellipse: Ellipse


@dataclass(frozen=True, slots=True)
class Relation:
    """Two labels: shortest distance of voxel centres, distance of centroids, angle of long axes.

    `axis_angle_deg` lies in [0, 90]; it is None where a structure has no longest direction.
    """

    first: int
    second: int
    gap_mm: float
    centroids_mm: float
    axis_angle_deg: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """One label in an earlier and a later scan; percentages refer to the earlier one.

    A label that one scan lacks has volume and diameter 0 there; a percentage of 0 is None.
    """

    value: int
    name: str
    volume_ml: tuple[float, float]
    volume_percent: float | None
    longest_mm: tuple[float, float]
    longest_percent: float | None


def fit_ellipse(
    mask: Bool[np.ndarray, "rows columns"], spacing_mm: tuple[float, float] = (1.0, 1.0)
) -> Ellipse:
    """Ellipse with the same area moments of second order; `spacing_mm` is (row, column).

    Exact for a filled ellipse up to pixel size, and insensitive to a ragged edge.

    Raises:
        ValueError: The mask is empty.
    """
    places = np.argwhere(mask) * np.asarray(spacing_mm)
    if not len(places):
        raise ValueError("an empty mask has no ellipse; check mask.any() first")
    # a pixel is a rectangle, not a point: it adds its own moment
    moments = np.cov(places.T, bias=True) if len(places) > 1 else np.zeros((2, 2))
    moments = moments + np.diag(np.square(spacing_mm)) / 12
    (small, large), directions = np.linalg.eigh(moments)
    major, minor = 4 * math.sqrt(large), 4 * math.sqrt(small)
    row, column = directions[:, 1]
    angle = math.degrees(math.atan2(row, column))
    area = len(places) * math.prod(spacing_mm)
    inside = np.square((places - places.mean(axis=0)) @ directions) @ (
        0.25 / np.array([small, large])
    )
    shared = float((inside <= 1).sum()) * math.prod(spacing_mm)
    ellipse_area = math.pi * major * minor / 4
    return Ellipse(
        major_mm=major,
        minor_mm=minor,
        angle_deg=angle - 180 * math.ceil((angle - 90) / 180),
        circumference_mm=2 * major * float(ellipe(1 - small / large)),
        area_mm2=ellipse_area,
        filled=shared / (area + ellipse_area - shared),
    )


def measure_picture(
    mask: Shaped[np.ndarray, "rows columns"], spacing_mm: tuple[float, float]
) -> tuple[PictureLabel, ...]:
    """Measure every label of a picture of known pixel size, (row, column) in mm; 0 is background.

    Raises:
        InputError: The mask is no label map of one channel, or the spacing is not positive.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "biu":
        raise InputError(
            f"has shape {mask.shape} and type {mask.dtype}, which is no label map",
            fix="give one channel of whole numbers, 0 for background",
            code="not_labels",
        )
    if not all(0 < step < math.inf for step in spacing_mm):
        raise InputError(f"pixel size must be > 0 mm, got {spacing_mm}", code="spacing")
    return tuple(
        _picture_label(mask == value, int(value), spacing_mm) for value in np.unique(mask) if value
    )


def relate(
    labels: Shaped[np.ndarray, "k j i"], geometry: Geometry, first: int, second: int
) -> Relation:
    """Distances in mm and the angle of the long axes of two labels on one grid.

    Raises:
        InputError: A label is not in the mask, or the lattice is sheared.
    """
    one, two = labels == first, labels == second
    for value, part in ((first, one), (second, two)):
        if not part.any():
            found = [int(v) for v in np.unique(labels) if v]
            raise InputError(f"has no label {value}; it has {found}", code="no_label")
    return Relation(first, second, *relate_masks(one, two, geometry))


def relate_masks(
    one: Bool[np.ndarray, "k j i"], two: Bool[np.ndarray, "k j i"], geometry: Geometry
) -> tuple[float, float, float | None]:
    """Gap, distance of centroids and angle of two structures that may overlap; see `Relation`.

    Raises:
        InputError: The lattice is sheared.
    """
    steps = geometry.affine[:3, [2, 1, 0]]
    products = steps.T @ steps
    if np.abs(products - np.diag(np.diag(products))).max() > 1e-4 * products.max():
        raise InputError(
            "lies on a sheared lattice, on which distances are not computed",
            fix="resample it to a lattice with right angles",
            code="sheared",
        )
    away = edt(~two, anisotropy=geometry.spacing_mm)
    points = [geometry.to_world_mm(np.argwhere(part).astype(float), "ras") for part in (one, two)]
    middles = [each.mean(axis=0) for each in points]
    axes = [_long_axis(each) for each in points]
    angle = None
    if axes[0] is not None and axes[1] is not None:
        angle = math.degrees(math.acos(min(1.0, abs(float(axes[0] @ axes[1])))))
    return float(away[one].min()), float(np.linalg.norm(middles[0] - middles[1])), angle


def change(before: Measurements, after: Measurements) -> tuple[Change, ...]:
    """Compare the labels of an earlier and a later scan by value, e.g. for RECIST follow-up."""
    earlier = {label.value: label for label in before.labels}
    later = {label.value: label for label in after.labels}
    found = []
    for value in sorted({*earlier, *later}):
        sides = (earlier.get(value), later.get(value))
        volumes = _pair(sides, lambda label: label.volume_ml)
        longest = _pair(sides, lambda label: label.diameters.longest_mm)
        name = next(side.name for side in reversed(sides) if side is not None)
        found.append(Change(value, name, volumes, _percent(volumes), longest, _percent(longest)))
    return tuple(found)


def interval(
    probability: Float[np.ndarray, "..."], measurement: Callable[[Bool[np.ndarray, "..."]], float]
) -> tuple[float, float]:
    """95 % interval of a measurement under the uncertainty of a mask.

    The boundary is taken to move as a whole: with u uniform in (0, 1) the mask is {p > u}, so the
    interval runs from the voxels that are surely inside (p > 0.975) to those that may be
    (p > 0.025). It is as good as the calibration of `probability`, and wide rather than narrow,
    because errors at different places are not assumed to cancel.

    Raises:
        InputError: The values are no probabilities.
    """
    low, high = float(probability.min(initial=0)), float(probability.max(initial=0))
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"has values from {low:g} to {high:g}, which are no probabilities",
            fix="give values from 0 to 1",
            code="not_probability",
        )
    ends = sorted(_or_zero(probability > level, measurement) for level in INTERVAL)
    return ends[0], ends[1]


def to_dict(items: tuple[PictureLabel | Relation | Change, ...]) -> list[dict[str, object]]:
    """Plain values for JSON."""
    return [asdict(item) for item in items]


def _picture_label(
    part: Bool[np.ndarray, "rows columns"], value: int, spacing_mm: tuple[float, float]
) -> PictureLabel:
    longest, corners = longest_distance(outline(part) * np.asarray(spacing_mm))
    middle = np.argwhere(part).mean(axis=0) * spacing_mm
    return PictureLabel(
        value=value,
        pixels=int(part.sum()),
        area_mm2=float(part.sum()) * math.prod(spacing_mm),
        longest_mm=longest,
        perpendicular_mm=longest_chord(corners),
        centroid_mm=(float(middle[0]), float(middle[1])),
        ellipse=fit_ellipse(part, spacing_mm),
    )


def _long_axis(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3"] | None:
    """Direction of largest extent; None for a ball, a cube or a single voxel."""
    if len(points) < 2:
        return None
    sizes, directions = np.linalg.eigh(np.cov(points.T, bias=True))
    return directions[:, 2] if sizes[2] > 1.01 * sizes[1] else None


def _pair(sides: tuple[object, object], value: Callable[..., float]) -> tuple[float, float]:
    one, two = (0.0 if side is None else value(side) for side in sides)
    return one, two


def _percent(pair: tuple[float, float]) -> float | None:
    return None if pair[0] == 0 else 100 * (pair[1] - pair[0]) / pair[0]


def _or_zero(mask: Bool[np.ndarray, "..."], measurement: Callable[..., float]) -> float:
    return measurement(mask) if mask.any() else 0.0


def describe_shapes() -> Mapping[str, str]:
    """Definitions of what this module measures, for reports."""
    return {
        "ellipse": "ellipse with the area moments of second order of the mask; circumference by "
        "the complete elliptic integral",
        "gap_mm": "shortest distance of voxel centres of the two labels",
        "axis_angle_deg": "angle of the principal axes of the two labels, 0 to 90",
        "interval": "measurement of the voxels with probability above 0.975 and above 0.025",
    }
