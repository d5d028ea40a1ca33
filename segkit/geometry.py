"""Voxel index to millimetres and back, in float64.

Array order is (k, j, i) = (depth, height, width), the last axis fastest; integers are voxel
centres. Only affine matrices keep the file convention: (i, j, k, 1) to (x, y, z, 1) in millimetres,
right-anterior-superior (source: NIfTI-1 header, "method 3").
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped

from segkit.errors import InputError

Space = Literal["voxel", "ras", "lps"]
Triple = tuple[int, int, int]

WORLD_AXES = ("LR", "PA", "IS")  # letters of the negative and the positive end of x, y, z
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MIN_MM, MAX_MM = 1e-12, 1e12  # far beyond any image; squares and products stay finite
MIN_INDEPENDENCE = 1e-6  # determinant of the unit columns, below which an affine counts as singular


@dataclass(frozen=True, slots=True)
class Reorientation:
    """Exact axis swap and flip between two storage orders of one volume; nothing is resampled.

    Axis n of the result is axis `axes[n]` of the source, reversed where `flips[n]`. `shape` is the
    source's. All in array order (k, j, i).
    """

    axes: Triple
    flips: tuple[bool, bool, bool]
    shape: Triple

    @property
    def result_shape(self) -> Triple:
        """Shape of what `apply` returns."""
        return (self.shape[self.axes[0]], self.shape[self.axes[1]], self.shape[self.axes[2]])

    def apply(self, array: Shaped[np.ndarray, "k j i"]) -> Shaped[np.ndarray, "k2 j2 i2"]:
        """View of a source array in the new order; no copy."""
        _check_shape(array.shape, self.shape)
        return array.transpose(self.axes)[self._steps]

    def invert(self, array: Shaped[np.ndarray, "k2 j2 i2"]) -> Shaped[np.ndarray, "k j i"]:
        """View of a reoriented array in the source's order; no copy."""
        _check_shape(array.shape, self.result_shape)
        return array[self._steps].transpose(np.argsort(self.axes))

    def index(self, index: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
        """Where voxel indices (k, j, i) of the source lie in the result; fractions allowed."""
        moved = np.asarray(index, dtype=np.float64)[:, self.axes]
        return np.where(self.flips, np.array(self.result_shape) - 1 - moved, moved)

    def source_index(self, index: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 3"]:
        """Where indices of the result lie in the source: the inverse of `index`."""
        moved = np.asarray(index, dtype=np.float64)
        moved = np.where(self.flips, np.array(self.result_shape) - 1 - moved, moved)
        return moved[:, np.argsort(self.axes)]

    @property
    def _steps(self) -> tuple[slice, slice, slice]:
        first, second, third = (slice(None, None, -1 if flip else None) for flip in self.flips)
        return (first, second, third)


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Lattice of a volume: `shape` in array order (k, j, i), `affine` from (i, j, k) to RAS mm.

    `is_known` is false for files that carry no frame; then nothing may be stated in millimetres.

    Example:
        >>> geometry = Geometry.from_spacing((16, 20, 24), (3.0, 0.8, 0.8))
        >>> geometry.to_world_mm(np.array([[1.0, 2.0, 5.0]])).tolist()
        [[4.0, 1.6, 3.0]]
        >>> geometry.orientation
        'RAS'

    Raises:
        ValueError: The shape holds a number below 1; the affine is not 4 x 4, not finite, singular
            or its last row is not 0 0 0 1.
    """

    shape: Triple
    affine: Float[np.ndarray, "4 4"]
    is_known: bool = True

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be three numbers >= 1 in order k j i, got {self.shape}")
        affine = np.array(self.affine, dtype=np.float64)
        if (cause := affine_fault(affine)) is not None:
            raise ValueError(f"affine {cause}")
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))

    @classmethod
    def from_spacing(
        cls,
        shape: Triple,
        spacing_mm: tuple[float, float, float],
        *,
        is_known: bool = True,
    ) -> "Geometry":
        """Axis-aligned lattice with its first voxel at the origin; both arguments in (k, j, i)."""
        return cls(shape, np.diag([*spacing_mm[::-1], 1.0]), is_known)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along (k, j, i)."""
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)[::-1]
        return (float(steps[0]), float(steps[1]), float(steps[2]))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel; with shear it is smaller than the product of `spacing_mm`."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def diagonal_mm(self) -> float:
        """Longest distance between two corner voxels' outer corners."""
        edges = self.affine[:3, :3] * np.array(self.shape[::-1], dtype=np.float64)
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
        return float(np.linalg.norm(signs @ edges.T, axis=1).max())

    @property
    def orientation(self) -> str:
        """Letters of the directions in which i, j and k (in this order) grow, e.g. "RAS"."""
        axes, signs = closest_axes(self.affine)
        return "".join(WORLD_AXES[axis][sign > 0] for axis, sign in zip(axes, signs, strict=True))

    def to_world_mm(
        self, index: Float[np.ndarray, "points 3"], space: Space = "ras"
    ) -> Float[np.ndarray, "points 3"]:
        """Map voxel indices (k, j, i) to patient coordinates (x, y, z); "voxel" maps to itself.

        Raises:
            InputError: The frame is unknown and `space` is in millimetres.
        """
        matrix = self._matrix(space)
        points = np.asarray(index, dtype=np.float64).reshape(-1, 3)
        return points if matrix is None else points[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3]

    def to_index(
        self, points_mm: Float[np.ndarray, "points 3"], space: Space
    ) -> Float[np.ndarray, "points 3"]:
        """Map patient coordinates (x, y, z) to fractional voxel indices (k, j, i).

        With "voxel" the points are (k, j, i) already and come back unchanged.

        Raises:
            InputError: The frame is unknown and `space` is in millimetres.
        """
        matrix = self._matrix(space)
        points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3)
        if matrix is None:
            return points
        return np.linalg.solve(matrix[:3, :3], (points - matrix[:3, 3]).T).T[:, ::-1]

    def reoriented(self, codes: str) -> tuple[Reorientation, "Geometry"]:
        """Axis swaps and flips that bring (i, j, k) closest to `codes`, and the lattice after them.

        Oblique and sheared lattices keep their angles; only the order and direction of their axes
        change.

        Raises:
            ValueError: `codes` are not one letter each of LR, PA and IS.
        """
        wanted_axes, wanted_signs = _parse_codes(codes)
        axes, signs = closest_axes(self.affine)
        sources = [axes.index(axis) for axis in wanted_axes]
        flips = [signs[a] != sign for a, sign in zip(sources, wanted_signs, strict=True)]
        # file axis a is array axis 2 - a
        order = (2 - sources[2], 2 - sources[1], 2 - sources[0])
        change = Reorientation(order, (flips[2], flips[1], flips[0]), self.shape)
        moved = np.zeros((4, 4))
        moved[3, 3] = 1.0
        for axis, (source, flip) in enumerate(zip(sources, flips, strict=True)):
            moved[source, axis] = -1.0 if flip else 1.0
            moved[source, 3] = self.shape[2 - source] - 1.0 if flip else 0.0
        return change, Geometry(change.result_shape, self.affine @ moved, self.is_known)

    def corner_shift(self, other: "Geometry") -> float:
        """Largest distance, in voxels of this lattice, between equal corner voxels of the two.

        The shapes must agree; infinite where the lattices differ in handedness.
        """
        if np.linalg.det(self.affine) * np.linalg.det(other.affine) < 0:
            return math.inf
        corners = np.array(list(itertools.product(*((0.0, size - 1.0) for size in self.shape))))
        world = corners[:, ::-1] @ other.affine[:3, :3].T + other.affine[:3, 3]
        back = np.linalg.solve(self.affine[:3, :3], (world - self.affine[:3, 3]).T).T[:, ::-1]
        return float(np.linalg.norm(back - corners, axis=1).max())

    def _matrix(self, space: Space) -> Float[np.ndarray, "4 4"] | None:
        if space not in get_args(Space):
            raise ValueError(f"space must be one of {get_args(Space)}, got {space!r}")
        if space == "voxel":
            return None
        if not self.is_known:
            raise InputError(
                f"the file carries no frame, so {space!r} coordinates have no meaning",
                fix="give voxel indices (space 'voxel'), or the voxel size with --spacing x,y,z",
                code="unknown_frame",
                option="--spacing",
            )
        return self.affine if space == "ras" else RAS_TO_LPS @ self.affine


def affine_fault(affine: Float[np.ndarray, "..."]) -> str | None:
    """What makes a matrix unusable as an affine, in words; None if nothing does."""
    if affine.shape != (4, 4):
        return f"must be 4 x 4, got {' x '.join(map(str, affine.shape))}"
    if not np.isfinite(affine).all():
        return "holds NaN or Inf"
    if np.abs(affine).max() > MAX_MM:
        return f"holds {np.abs(affine).max():.3g}, which is no length of a body in mm"
    if (last := affine[3].tolist()) != [0.0, 0.0, 0.0, 1.0]:
        return f"must end with the row 0 0 0 1, got {last}; is it transposed?"
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if steps.min() < MIN_MM or abs(np.linalg.det(affine[:3, :3] / steps)) < MIN_INDEPENDENCE:
        return "is singular: its axes do not span space"
    return None


def closest_axes(affine: Float[np.ndarray, "4 4"]) -> tuple[list[int], list[int]]:
    """World axis (0 x, 1 y, 2 z) and direction (1 or -1) nearest to each of i, j and k.

    Each world axis is taken once, the best aligned voxel axis chooses first. Angles are those of
    the nearest rotation (polar decomposition), so that shear does not favour an axis.
    """
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(columns)
    rotation = left @ right
    axes, signs = [0, 0, 0], [1, 1, 1]
    free = [0, 1, 2]
    for axis in np.argsort(-np.abs(rotation).max(axis=0), kind="stable"):
        world = max(free, key=lambda row: abs(rotation[row, axis]))
        axes[axis], signs[axis] = world, 1 if rotation[world, axis] > 0 else -1
        free.remove(world)
    return axes, signs


def _parse_codes(codes: str) -> tuple[list[int], list[int]]:
    axes = [axis for code in codes for axis, ends in enumerate(WORLD_AXES) if code in ends]
    if len(codes) != 3 or sorted(axes) != [0, 1, 2]:
        raise ValueError(
            f"orientation must be three letters, one each of L/R, P/A and I/S, got {codes!r}"
        )
    signs = [1 if code in "RAS" else -1 for code in codes]
    return axes, signs


def _check_shape(got: tuple[int, ...], expected: Triple) -> None:
    if got != expected:
        raise ValueError(f"array must have the shape {expected} (k, j, i), got {got}")
