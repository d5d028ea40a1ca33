"""What a user says about an object: points and boxes, checked against the image they belong to.

Coordinates are voxel indices in array order, (k, j, i) for volumes and (row, column) for pictures;
integers are voxel centres. Boxes are half-open, as array slices are.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from segkit.errors import DataWarning, InputError
from segkit.geometry import Geometry, Space

Numbers = Sequence[float]
ROUNDING = 1e-6
"""Voxels; a centre this close to the side of a box in millimetres lies inside."""


@dataclass(frozen=True, slots=True)
class Point:
    """One click; `label` 1 adds to the object, 0 removes from it."""

    index: tuple[float, ...]
    label: int


@dataclass(frozen=True, slots=True)
class Box:
    """Half-open box [first, last)."""

    first: tuple[float, ...]
    last: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Voxels someone encircled: `inside` covers the part of the image that starts at `first`.

    `label` 1 adds them to the object, 0 removes them from it.
    """

    first: tuple[int, ...]
    inside: Bool[np.ndarray, "..."]
    label: int

    def on_grid(self, shape: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
        """The same voxels in an array of the shape of the image; only touched memory is used."""
        grid = np.zeros(shape, dtype=bool)
        sides = zip(self.first, self.inside.shape, strict=True)
        grid[tuple(slice(start, start + side) for start, side in sides)] = self.inside
        return grid


Mark = Point | Box | Region


def check_points(
    points: Sequence[Numbers],
    labels: Sequence[int],
    shape: tuple[int, ...],
    geometry: Geometry | None = None,
    space: Space = "voxel",
) -> tuple[Point, ...]:
    """Check clicks and bring them to voxel indices.

    Raises:
        InputError: A coordinate is not finite or outside the image, a label is not 0 or 1, the
            numbers of points and labels differ, or millimetres are given without a known frame.
    """
    if len(points) != len(labels):
        raise InputError(
            f"got {len(points)} points and {len(labels)} labels", fix="give one label per point"
        )
    check_labels(labels)
    indices = _to_index(points, shape, geometry, space)
    for given, index in zip(points, indices, strict=True):
        if not all(-0.5 <= value < size - 0.5 for value, size in zip(index, shape, strict=True)):
            at = "" if space == "voxel" else f" (voxel {_rounded(index)} of this image)"
            raise InputError(
                f"point {tuple(given)} in {space} space{at} lies outside the image",
                fix=f"valid voxel indices are 0..{tuple(size - 1 for size in shape)} "
                f"in the order {_order(shape)}",
                code="prompt_outside",
            )
    return tuple(
        Point(tuple(map(float, index)), int(label))
        for index, label in zip(indices, labels, strict=True)
    )


def check_labels(labels: Sequence[int]) -> None:
    """Refuse labels other than 1 (object) and 0 (background).

    Raises:
        InputError: There is one.
    """
    if unknown := sorted({label for label in labels if label not in (0, 1)}):
        raise InputError(
            f"point labels must be 1 (object) or 0 (background), got {unknown}",
            fix="use add_box for box corners",
        )


def check_box(
    box: tuple[Numbers, Numbers],
    shape: tuple[int, ...],
    geometry: Geometry | None = None,
    space: Space = "voxel",
) -> Box:
    """Check a half-open box, sort its corners and clip it to the image.

    Boxes in millimetres span the voxels whose centres they contain.

    Raises:
        InputError: A corner is not finite, the box has no extent, or it lies fully outside.
    """
    corners = _to_index(box, shape, geometry, space)
    first, last = corners.min(axis=0), corners.max(axis=0)
    if space != "voxel":
        first, last = np.ceil(first - ROUNDING), np.floor(last + ROUNDING) + 1
    if (last <= first).any():
        raise InputError(
            f"box {_corners(box)} has no extent along {_axes(last <= first, shape)}",
            fix="boxes are half-open: the last corner lies one past the last voxel",
            code="prompt_empty",
        )
    inside_first, inside_last = np.maximum(first, 0), np.minimum(last, shape)
    if (inside_last <= inside_first).any():
        raise InputError(
            f"box {_corners(box)} lies outside the image of shape {shape}",
            fix=f"give corners between 0 and {shape} in the order {_order(shape)}",
            code="prompt_outside",
        )
    if (inside_first != first).any() or (inside_last != last).any():
        warnings.warn(
            f"box {_corners(box)} reaches outside the image of shape {shape} and was clipped",
            DataWarning,
            stacklevel=3,
        )
    return Box(tuple(map(float, inside_first)), tuple(map(float, inside_last)))


def settle(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Keep the last of several clicks on the same voxel; warn where they contradict each other."""
    settled: dict[object, Mark] = {}
    for mark in marks:
        key = tuple(round(value) for value in mark.index) if isinstance(mark, Point) else mark
        earlier = settled.pop(key, mark)
        if isinstance(mark, Point) and isinstance(earlier, Point) and earlier.label != mark.label:
            warnings.warn(
                f"voxel {key} was marked both as object and as background; the last mark wins",
                DataWarning,
                stacklevel=3,
            )
        settled[key] = mark
    return tuple(settled.values())


def _to_index(
    points: Sequence[Numbers], shape: tuple[int, ...], geometry: Geometry | None, space: Space
) -> Float[np.ndarray, "points axes"]:
    if any(len(point) != len(shape) for point in points):
        raise InputError(
            f"coordinates must have {len(shape)} numbers in the order {_order(shape)}, "
            f"got {[tuple(point) for point in points][:3]}",
            fix=f"the image has shape {shape}",
        )
    values = np.asarray(points, dtype=np.float64).reshape(-1, len(shape))
    if bad := [tuple(point) for point in points if not all(map(math.isfinite, point))]:
        raise InputError(f"coordinates must be finite, got {bad[0]}", fix="check the prompt")
    if space == "voxel":
        return values
    if space not in ("ras", "lps"):
        raise InputError(f"unknown space {space!r}", fix="allowed: 'voxel', 'ras' (mm), 'lps' (mm)")
    if geometry is None or not geometry.is_known:
        raise InputError(
            f"a point in {space} millimetres needs an image with a known frame",
            fix="give voxel indices (space='voxel')",
        )
    return geometry.to_index(values, space)


def _order(shape: tuple[int, ...]) -> str:
    return "(k, j, i)" if len(shape) == 3 else "(row, column)"


def _axes(flags: np.ndarray, shape: tuple[int, ...]) -> str:
    names = ("k", "j", "i") if len(shape) == 3 else ("row", "column")
    return ", ".join(name for name, flag in zip(names, flags, strict=True) if flag)


def _rounded(index: Float[np.ndarray, " axes"]) -> tuple[float, ...]:
    return tuple(round(float(value), 1) for value in index)


def _corners(box: tuple[Numbers, Numbers]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(corner) for corner in box)
