"""What radiologists note of a mask: volume, surface, diameters, place, and intensity under it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage
from scipy.spatial import ConvexHull

from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.metrics.cells import _normals, cell_codes

SAME_GRID_VOXELS = 1e-3
_ALMOST_EQUAL = 1.01


class Gridded(Protocol):
    """Voxels on a lattice, as `segkit.load` returns them."""

    @property
    def array(self) -> Shaped[np.ndarray, "k j i"]:
        """Values in array order."""

    @property
    def geometry(self) -> Geometry:
        """Lattice of the values."""

    @property
    def labels(self) -> Mapping[int, str]:
        """Names by value."""

    @property
    def path(self) -> Path | None:
        """Where it was read."""


@dataclass(frozen=True, slots=True)
class Intensity:
    """Image values under one label; `sd` divides by n."""

    mean: float
    sd: float
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Diameters:
    """Longest diameter in one slice, and the longest chord at a right angle to it in that slice.

    `longest_slice` is the index of the slice on the axis of `Measurements.slice_axis`.
    """

    longest_mm: float
    perpendicular_mm: float
    longest_slice: int


@dataclass(frozen=True, slots=True)
class LabelMeasurement:
    """Measurements of one label value; `centroid_mm` is (x, y, z), right-anterior-superior."""

    value: int
    name: str
    voxels: int
    volume_ml: float
    surface_mm2: float
    diameters: Diameters
    centroid_mm: tuple[float, float, float]
    intensity: Intensity | None = None


@dataclass(frozen=True, slots=True)
class Measurements:
    """All labels of a mask in ascending order; `slice_axis` is the array axis (k, j, i) of slices.

    `spacing_mm` is in array order.
    """

    labels: tuple[LabelMeasurement, ...]
    spacing_mm: tuple[float, float, float]
    slice_axis: int

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON, with the definitions of what was measured."""
        return {
            "format": 1,
            "definitions": {
                "volume_ml": "voxels times the volume of a voxel",
                "surface_mm2": "marching-cubes surface of the binary mask; its steps make curved "
                "bodies about a tenth larger than they are",
                "diameters": "RECIST 1.1: longest diameter in any slice of the acquisition plane, "
                "of one connected part, between the middles of voxel edges; the perpendicular is "
                "the longest chord of the convex hull at a right angle to it in the same slice",
                "centroid_mm": "mean of the voxel centres, x y z, right-anterior-superior",
                "intensity": "image values under the label; sd divides by n",
            },
            **asdict(self),
        }


def measure(mask: Gridded, image: Gridded | None = None) -> Measurements:
    """Measure every label of `mask`; 0 is background, and a mask without labels gives none.

    Slices lie across the axis with the largest spacing (the plane of acquisition); where spacings
    are equal, across the axis closest to head-foot (axial). Sheared lattices (gantry tilt) are
    measured exactly.

    Example:
        >>> measure(segkit.load("mask.nii.gz")).labels[0].volume_ml  # doctest: +SKIP
        12.4

    Raises:
        InputError: The mask has no known frame, is not a label map, or `image` lies on another
            grid.
    """
    geometry = mask.geometry
    if not geometry.is_known:
        raise InputError(
            "has no frame of reference, so nothing can be measured in mm",
            path=mask.path,
            fix="store the affine of its image in it (NIfTI: sform or qform with a code above 0)",
            code="unknown_frame",
        )
    labels = _as_labels(mask)
    values = None if image is None else _values_of(image, mask)
    axis = slice_axis(geometry)
    boxes = ndimage.find_objects(labels) if labels.size else []
    found = []
    for value, box in enumerate(boxes, start=1):
        if box is None:
            continue
        part = labels[box] == value
        intensity = None if values is None else _intensity(values[box][part])
        name = mask.labels.get(value, f"label {value}")
        first = np.array([edge.start for edge in box])
        found.append(_measure_label(part, first, geometry, axis, (value, name, intensity)))
    return Measurements(tuple(found), geometry.spacing_mm, axis)


def slice_axis(geometry: Geometry) -> int:
    """Array axis (k, j, i) across which slices were acquired."""
    spacing = np.array(geometry.spacing_mm)
    largest = int(spacing.argmax())
    if spacing[largest] >= _ALMOST_EQUAL * np.delete(spacing, largest).max():
        return largest
    steps = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    return 2 - int(np.abs(steps[2]).argmax())


def surface_mm2(mask: Bool[np.ndarray, "k j i"], steps: Float[np.ndarray, "3 3"]) -> float:
    """Area of the surface of a mask whose outside is empty.

    Columns of `steps` are the millimetres of one step along k, j, i; they may be oblique.
    """
    counts = np.bincount(cell_codes(mask).ravel(), minlength=256)
    # areas transform by the cofactors of the matrix, which covers shear
    cofactors = np.linalg.det(steps) * np.linalg.inv(steps)
    areas = np.linalg.norm(_normals() @ cofactors, axis=-1).sum(axis=-1)
    return float(counts @ areas)


def diameters(
    mask: Bool[np.ndarray, "k j i"], steps: Float[np.ndarray, "3 3"], axis: int
) -> Diameters:
    """Longest diameter over all slices across `axis` and its perpendicular.

    Raises:
        ValueError: The mask is empty.
    """
    rows, columns = (column for n, column in enumerate(steps.T) if n != axis)
    # an orthonormal basis of the slice plane, which also covers oblique pixels
    basis = np.linalg.qr(np.stack([rows, columns], axis=1))[0]
    plane = np.stack([rows @ basis, columns @ basis])
    best, place = (0.0, np.zeros((0, 2))), -1
    for index, picture in enumerate(np.moveaxis(mask, axis, 0)):
        parts, _ = ndimage.label(picture, structure=np.ones((3, 3), dtype=int))
        for part, box in enumerate(ndimage.find_objects(parts), start=1):
            found = longest_distance(outline(parts[box] == part) @ plane)
            if found[0] > best[0]:
                best, place = found, index
    if place < 0:
        raise ValueError("an empty mask has no diameter; check mask.any() first")
    return Diameters(best[0], longest_chord(best[1]), place)


def outline(mask: Bool[np.ndarray, "j i"]) -> Float[np.ndarray, "points 2"]:
    """Points (j, i) that span the convex hull: middles of the outer edges of each row's ends."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - 1 - mask[rows][:, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)])
    around = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    return (ends[:, None] + around).reshape(-1, 2)


def longest_distance(
    points: Float[np.ndarray, "points 2"],
) -> tuple[float, Float[np.ndarray, "corners 2"]]:
    """Longest distance of two points, and the corners of the hull in turn, turned along it.

    At least three points that are not on one line.
    """
    corners = points[ConvexHull(points).vertices]
    distances = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    one, two = np.unravel_index(distances.argmax(), distances.shape)
    longest = float(distances[one, two])
    along = (corners[two] - corners[one]) / longest
    return longest, corners @ np.array([[along[0], -along[1]], [along[1], along[0]]])


def longest_chord(corners: Float[np.ndarray, "corners 2"]) -> float:
    """Longest extent of a convex polygon along its second axis, at one place of the first.

    The extent is concave and piecewise linear, so it is largest at a corner.
    """
    best = 0.0
    for place in corners[:, 0]:
        low, high = math.inf, -math.inf
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if min(x0, x1) <= place <= max(x0, x1):
                share = 0.0 if x0 == x1 else (place - x0) / (x1 - x0)
                ends = (y0, y1) if x0 == x1 else (y0 + (y1 - y0) * share,)
                low, high = min(low, *ends), max(high, *ends)
        best = max(best, high - low)
    return float(best)


def _measure_label(
    part: np.ndarray,
    first: np.ndarray,
    geometry: Geometry,
    axis: int,
    about: tuple[int, str, Intensity | None],
) -> LabelMeasurement:
    """Measure one label, cropped to its box, whose corner lies at index `first`."""
    steps = geometry.affine[:3, [2, 1, 0]]
    value, name, intensity = about
    voxels = int(part.sum())
    size = diameters(part, steps, axis)
    centroid = geometry.to_world_mm((np.argwhere(part).mean(axis=0) + first)[None], "ras")[0]
    return LabelMeasurement(
        value=value,
        name=name,
        voxels=voxels,
        volume_ml=voxels * geometry.voxel_volume_mm3 / 1000,
        surface_mm2=surface_mm2(part, steps),
        diameters=Diameters(
            size.longest_mm, size.perpendicular_mm, size.longest_slice + int(first[axis])
        ),
        centroid_mm=(float(centroid[0]), float(centroid[1]), float(centroid[2])),
        intensity=intensity,
    )


def _as_labels(mask: Gridded) -> np.ndarray:
    """Label values as integers; values within 1e-3 of whole numbers are rounded."""
    array = mask.array
    if array.dtype == bool:
        return array.astype(np.uint8)
    whole = np.rint(array) if array.dtype.kind == "f" else array
    off = float(np.abs(array - whole).max(initial=0)) if array.dtype.kind == "f" else 0.0
    low, high = float(array.min(initial=0)), float(array.max(initial=0))
    if not off <= 1e-3 or low < 0 or high > 65535:
        raise InputError(
            f"is not a label map: values from {low:g} to {high:g}, up to {off:.2g} off whole "
            "numbers",
            path=mask.path,
            fix="give a mask of whole numbers from 0 to 65535",
            code="not_labels",
        )
    return whole.astype(np.uint16)


def _values_of(image: Gridded, mask: Gridded) -> np.ndarray:
    geometry = image.geometry
    is_same = geometry.shape == mask.geometry.shape
    shift = mask.geometry.corner_shift(geometry) if is_same else math.inf
    if not shift <= SAME_GRID_VOXELS:
        found = f"{shift:.3g} voxels apart" if is_same else f"shapes {geometry.shape} and "
        found += "" if is_same else f"{mask.geometry.shape}"
        raise InputError(
            f"lies on another grid than the mask ({found})",
            path=image.path,
            fix="resample one of them, or give the image the mask was drawn on",
            code="grid",
        )
    return image.array


def _intensity(values: np.ndarray) -> Intensity:
    values = values.astype(np.float64)
    return Intensity(
        float(values.mean()), float(values.std()), float(values.min()), float(values.max())
    )
