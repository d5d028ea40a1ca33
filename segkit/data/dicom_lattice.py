"""From the true positions of slices to a regular lattice, never stretching and never guessing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import ndimage

from segkit.data.dicom_frames import Frame
from segkit.data.dicom_series import SAME_PLACE_MM, directions
from segkit.errors import InputError
from segkit.geometry import Geometry

TOLERANCE = 0.01
"""How far a slice may lie off its place, as a share of the distance of slices."""
_ROUNDING_MM, _MOST_SPREAD = 5e-3, 4


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Where the slices of a stack lie and where those of the volume will lie.

    `points_mm` are the first pixels of the slices, sorted along `normal`; slice k of the volume
    has its first pixel at `origin_mm + k * step_mm`, the step may be sheared (gantry tilt).
    `slots` gives k for each slice; None asks for resampling. Coordinates are LPS.
    """

    points_mm: Float[np.ndarray, "slices 3"]
    along_row: Float[np.ndarray, " 3"]
    along_column: Float[np.ndarray, " 3"]
    normal: Float[np.ndarray, " 3"]
    origin_mm: Float[np.ndarray, " 3"]
    step_mm: Float[np.ndarray, " 3"]
    count: int
    slots: Int[np.ndarray, " slices"] | None

    @property
    def gap_slices(self) -> tuple[int, ...]:
        """Slices of the volume that no file holds."""
        if self.slots is None:
            return ()
        return tuple(sorted(set(range(self.count)) - set(self.slots.tolist())))

    def affine(self, spacing_mm: tuple[float, float]) -> Float[np.ndarray, "4 4"]:
        """Matrix from (i, j, k) to RAS millimetres; `spacing_mm` is (rows, columns)."""
        matrix = np.eye(4)
        matrix[:3, 0] = self.along_row * spacing_mm[1]
        matrix[:3, 1] = self.along_column * spacing_mm[0]
        matrix[:3, 2] = self.step_mm
        matrix[:3, 3] = self.origin_mm
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def fit_lattice(
    frames: Sequence[Frame], folder: Path, *, fill_gap: bool, regrid: bool
) -> tuple[Lattice, str]:
    """Lattice of frames that are sorted along their normal, and a note (empty if all is regular).

    Raises:
        InputError: Slices are missing and `fill_gap` is off, slices lie more than 1 % of their
            distance off and `regrid` is off, or two lie at one height.
    """
    along_row, along_column, normal = directions(frames[0])
    points = np.array([frame.position_mm for frame in frames], dtype=np.float64)
    slots: Int[np.ndarray, " slices"] | None
    if len(frames) == 1:
        thickness, slots, count = frames[0].thickness_mm, np.zeros(1, dtype=np.int64), 1
        step = normal * (thickness or 1.0)
        note = "" if thickness else "a single slice of unknown thickness; 1 mm is assumed"
    else:
        slots, step, note = _fit(points, normal, folder, fill_gap=fill_gap, regrid=regrid)
        count = int(np.rint((points[-1] - points[0]) @ step / (step @ step))) + 1
    if count > _MOST_SPREAD * len(frames):
        raise InputError(
            f"has {len(frames)} slices spread over the room of {count}",
            path=folder,
            fix="separate the files; this is not one stack",
            code="positions",
        )
    lattice = Lattice(points, along_row, along_column, normal, points[0], step, count, slots)
    if lattice.gap_slices:
        note += f" (gap slices k = {', '.join(map(str, lattice.gap_slices))})"
    return lattice, note


def _fit(
    points: np.ndarray, normal: np.ndarray, folder: Path, *, fill_gap: bool, regrid: bool
) -> tuple[np.ndarray | None, np.ndarray, str]:
    """Slots (None: resample), step and note of at least two slices."""
    gaps = np.diff(points @ normal)
    if gaps.min() <= SAME_PLACE_MM:
        raise InputError(
            "has two slices at one height but at different places",
            path=folder,
            fix="separate the files",
            code="positions",
        )
    distance = float(np.quantile(gaps, 0.5, method="lower"))
    slots, step, off = slots_of(points, normal, distance)
    if not is_regular(off, distance):
        if not regrid:
            raise _irregular(folder, gaps, off)
        count = max(2, int(np.rint(gaps.sum() / distance)) + 1)
        note = f"{len(points)} unevenly spaced slices were resampled to {count}"
        return None, (points[-1] - points[0]) / (count - 1), note
    if (missing := int(slots[-1]) + 1 - len(points)) == 0:
        return slots, step, ""
    if not fill_gap:
        raise _missing(folder, gaps, points @ normal, distance, missing)
    return slots, step, f"{missing} missing slices were filled"


def slots_of(
    points_mm: Float[np.ndarray, "slices 3"], normal: Float[np.ndarray, " 3"], distance_mm: float
) -> tuple[Int[np.ndarray, " slices"], Float[np.ndarray, " 3"], Float[np.ndarray, " slices"]]:
    """Whole numbers of steps of about `distance_mm`, the exact step, and how far each slice is off.

    At least two points, sorted along `normal`.
    """
    gaps = np.diff(points_mm @ normal)
    counts = np.maximum(np.rint(gaps / distance_mm), 1).astype(np.int64)
    slots = np.concatenate([[0], np.cumsum(counts)])
    step = (points_mm[-1] - points_mm[0]) / slots[-1]
    off = np.abs(points_mm - (points_mm[0] + slots[:, None] * step)).max(axis=1)
    return slots, step, off


def is_regular(off: Float[np.ndarray, " slices"], distance_mm: float) -> bool:
    """Whether slices lie on their places within the tolerance."""
    return bool(off.max() <= max(TOLERANCE * distance_mm, _ROUNDING_MM))


def place(
    stack: Shaped[np.ndarray, "slices rows columns"],
    lattice: Lattice,
    spacing_mm: tuple[float, float],
) -> Shaped[np.ndarray, "k j i"]:
    """Put the slices on the lattice: as they are, with interpolated gap slices, or resampled."""
    if lattice.slots is None:
        return _resample(stack, lattice, spacing_mm)
    if not lattice.gap_slices:
        return stack
    volume = np.empty((lattice.count, *stack.shape[1:]), dtype=stack.dtype)
    volume[lattice.slots] = stack
    for k in lattice.gap_slices:
        after = int(np.searchsorted(lattice.slots, k))
        first, last = int(lattice.slots[after - 1]), int(lattice.slots[after])
        blended = _blend(stack[after - 1], stack[after], (k - first) / (last - first))
        volume[k] = np.rint(blended) if stack.dtype.kind in "iu" else blended
    return volume


def _blend(one: np.ndarray, two: np.ndarray, share: float) -> np.ndarray:
    return one.astype(np.float64) * (1 - share) + two.astype(np.float64) * share


def _resample(
    stack: np.ndarray, lattice: Lattice, spacing_mm: tuple[float, float]
) -> Float[np.ndarray, "k j i"]:
    """Linear between the true positions; a slice off the common line is moved in its plane."""
    heights = lattice.points_mm @ lattice.normal
    share = (heights - heights[0]) / (heights[-1] - heights[0])
    line = lattice.points_mm[0] + share[:, None] * (lattice.points_mm[-1] - lattice.points_mm[0])
    aside = lattice.points_mm - line
    shifts = np.stack([aside @ lattice.along_column, aside @ lattice.along_row], axis=1)
    shifts = shifts / spacing_mm
    slices = [
        image.astype(np.float32)
        if np.abs(shift).max() < TOLERANCE
        else ndimage.shift(image.astype(np.float32), shift, order=1, mode="nearest")
        for image, shift in zip(stack, shifts, strict=True)
    ]
    volume = np.empty((lattice.count, *stack.shape[1:]), dtype=np.float32)
    for k, height in enumerate(np.linspace(heights[0], heights[-1], lattice.count)):
        after = int(np.clip(np.searchsorted(heights, height), 1, len(heights) - 1))
        low, high = heights[after - 1], heights[after]
        volume[k] = _blend(slices[after - 1], slices[after], (height - low) / (high - low))
    return volume


def geometry_of(
    shape: tuple[int, int, int],
    affine: Float[np.ndarray, "4 4"],
    path: Path,
    *,
    is_known: bool = True,
) -> Geometry:
    """Geometry, with an impossible lattice (e.g. a pixel spacing of 1e-300) as a typed error."""
    try:
        return Geometry(shape, affine, is_known)
    except ValueError as error:
        raise InputError(
            f"has positions or spacings that make no lattice ({error})",
            path=path,
            fix="the header is damaged; export the series again",
            code="lattice",
        ) from error


def _irregular(folder: Path, gaps: np.ndarray, off: np.ndarray) -> InputError:
    return InputError(
        f"has unevenly spaced slices: distances from {gaps.min():.4g} to {gaps.max():.4g} mm, up "
        f"to {off.max():.3g} mm off a regular stack (at most {TOLERANCE:.0%} is allowed)",
        path=folder,
        fix="resample on the true positions with --regrid",
        code="uneven_slices",
        option="--regrid",
    )


def _missing(
    folder: Path, gaps: np.ndarray, heights: np.ndarray, distance: float, missing: int
) -> InputError:
    words = "1 slice" if missing == 1 else f"{missing} slices"
    first = int(np.argmax(gaps > 1.5 * distance))
    return InputError(
        f"misses {words}: {distance:.4g} mm apart otherwise, but none between "
        f"{heights[first]:.4g} and {heights[first + 1]:.4g} mm along the normal",
        path=folder,
        fix="add the files, or insert declared gap slices with --fill-gap",
        code="missing_slices",
        option="--fill-gap",
    )
