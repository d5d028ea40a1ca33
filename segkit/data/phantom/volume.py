"""A small volume with an organ, its lesions (or its two parts) and distracting neighbours."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from segkit.data.phantom.fields import spline_matrix

Structure = Literal["lesion", "parts"]
LABELS: dict[Structure, dict[int, str]] = {
    "lesion": {1: "organ", 2: "lesion"},
    "parts": {1: "head", 2: "tail"},
}
Space3 = tuple[int, int, int]
Plane3 = Float32[np.ndarray, "k j i"]


class PhantomVolume(NamedTuple):
    """Intensities, labels (0 background) and voxel spacing in array order (k, j, i)."""

    array: Int16[np.ndarray, "k j i"]
    labels: UInt8[np.ndarray, "k j i"]
    spacing_mm: tuple[float, float, float]


def smooth_volume(rng: np.random.Generator, shape: Space3, cells: Space3) -> Plane3:
    """Random field of about unit deviation with details of `shape / cells` voxels."""
    field = rng.standard_normal(tuple(n + 3 for n in cells), dtype=np.float32)
    for axis in range(3):
        matrix = spline_matrix(shape[axis], cells[axis])
        field = np.moveaxis(np.tensordot(matrix, field, (1, axis)), 0, axis)
    return 3.2 * field


def phantom_volume(
    seed: int | tuple[int, ...],
    *,
    structure: Structure = "lesion",
    shape: Space3 | None = None,
) -> PhantomVolume:
    """Draw the volume that belongs to `seed`: the same seed gives the same volume.

    An organ of variable place, size, turn and outline lies among neighbours of other intensity,
    under an uneven field, noise and an arbitrary intensity scale. Every label occurs.

    Args:
        seed: any non-negative integer, or several (for example data set, case).
        structure: `"lesion"`: label 1 is the organ around its lesions, 2 the lesions;
            `"parts"`: 1 and 2 are the two ends of the organ, of nearly equal intensity.
        shape: voxels (k, j, i); by default about 16 to 22 slices of 56 to 72 by 56 to 72.

    Raises:
        ValueError: `structure` is unknown or an axis of `shape` is shorter than 8 voxels.

    Example:
        >>> array, labels, spacing_mm = phantom_volume(3)
        >>> sorted(set(labels.ravel().tolist()))
        [0, 1, 2]
    """
    if structure not in get_args(Structure):
        raise ValueError(f"structure must be one of {get_args(Structure)}, got {structure!r}")
    if shape is not None and min(shape) < 8:
        raise ValueError(f"shape must be >= 8 voxels on each axis, got {shape}")
    rng = np.random.default_rng(seed)
    drawn = (int(rng.integers(16, 23)), int(rng.integers(56, 73)), int(rng.integers(56, 73)))
    size = shape or drawn
    apart = float(np.round(rng.uniform(2, 3.5), 2))
    pixel = float(np.round(rng.uniform(0.8, 1.2), 2))
    place = _coordinates(rng, size)
    labels, picture = _organ(rng, place, structure)
    return PhantomVolume(_acquire(rng, picture), labels, (apart, pixel, pixel))


def _coordinates(rng: np.random.Generator, shape: Space3) -> Float32[np.ndarray, "3 k j i"]:
    """Bent coordinates from -1 to 1 on each axis."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    place = np.stack(np.meshgrid(*axes, indexing="ij"))
    return place + np.float32(0.07) * np.stack(
        [smooth_volume(rng, shape, (2, 3, 3)) for _ in range(3)]
    )


def _radius(
    rng: np.random.Generator,
    place: Float32[np.ndarray, "3 k j i"],
    centre: np.ndarray,
    radii: np.ndarray,
) -> tuple[Plane3, Plane3]:
    """Relative radius of an ellipsoid turned in-plane, and the position along its long axis."""
    k, j, i = (place[axis] - np.float32(centre[axis]) for axis in range(3))
    turn = rng.uniform(-0.5, 0.5)
    along = (
        np.cos(turn).astype(np.float32) * j + np.sin(turn).astype(np.float32) * i
    ) / np.float32(radii[1])
    across = (
        np.cos(turn).astype(np.float32) * i - np.sin(turn).astype(np.float32) * j
    ) / np.float32(radii[2])
    return np.sqrt((k / np.float32(radii[0])) ** 2 + along**2 + across**2), along


def _organ(
    rng: np.random.Generator, place: Float32[np.ndarray, "3 k j i"], structure: Structure
) -> tuple[UInt8[np.ndarray, "k j i"], Plane3]:
    """Labels and ideal intensities (0 to 1)."""
    shape = place.shape[1:]
    picture = np.full(shape, 0.3, np.float32)
    for _ in range(int(rng.integers(2, 6))):
        far, _ = _radius(rng, place, rng.uniform(-1, 1, 3), rng.uniform(0.15, 0.5, 3))
        picture[far < 1] = rng.choice([rng.uniform(0.08, 0.2), rng.uniform(0.4, 0.5), 0.8])
    centre = rng.uniform(-0.2, 0.2, 3)
    radius, along = _radius(rng, place, centre, rng.uniform((0.5, 0.45, 0.3), (0.75, 0.65, 0.45)))
    organ = radius < 1
    labels = organ.astype(np.uint8)
    picture[organ] = 0.58 + rng.normal(0, 0.02)
    if structure == "parts":
        labels[organ & (along > rng.uniform(-0.2, 0.2))] = 2
        picture[labels == 2] += 0.05
        return labels, picture
    inside = np.argwhere(radius < 0.65)
    for spot in inside[rng.choice(len(inside), int(rng.integers(1, 4)))]:
        core = place[:, spot[0], spot[1], spot[2]]
        lesion, _ = _radius(rng, place, core, rng.uniform((0.2, 0.12, 0.12), (0.35, 0.25, 0.25)))
        mask: Bool[np.ndarray, "k j i"] = organ & (lesion < 1)
        labels[mask] = 2
    picture[labels == 2] = 0.4 + rng.normal(0, 0.02)
    return labels, picture


def _acquire(rng: np.random.Generator, picture: Plane3) -> Int16[np.ndarray, "k j i"]:
    """Partial volume, uneven field, texture, noise and an arbitrary intensity scale."""
    shape = picture.shape
    blurred = picture.copy()
    for axis, share in ((0, 0.1), (1, 0.2), (2, 0.2)):
        last = shape[axis] - 1
        before = blurred.take(np.maximum(np.arange(last + 1) - 1, 0), axis)
        after = blurred.take(np.minimum(np.arange(last + 1) + 1, last), axis)
        blurred = (1 - 2 * share) * blurred + share * (before + after)
    blurred += 0.02 * smooth_volume(rng, shape, (shape[0] // 3, shape[1] // 4, shape[2] // 4))
    blurred *= np.exp(0.15 * smooth_volume(rng, shape, (1, 2, 2)))
    blurred += rng.uniform(0.02, 0.05) * rng.standard_normal(shape, dtype=np.float32)
    scale = np.exp(rng.uniform(np.log(400), np.log(2000)))
    return np.clip(scale * blurred, 0, 32767).astype(np.int16)
