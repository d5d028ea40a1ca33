"""Surface elements of a mask: cells between voxel centres, weighted by the surface in them.

A cell is the cube (2D: the square) between neighbouring voxel centres. The inside/outside pattern
of its corners is its code; every code that is neither empty nor full carries a piece of the
marching-cubes surface (2D: marching-squares contour) whose vertices halve the cell's edges.

Source: "Marching Cubes" (Lorensen and Cline, 1987). The triangulation of non-planar pieces is the
one the surface-distance definition of DeepMind rests on: a fan, and among the fans of a polygon
one of largest area on the unit cell. Where a face is ambiguous, the corners in the minority are
separated (inside on a tie). The tests compare all 256 codes with an independent table.
"""

from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, UInt8

Point = tuple[float, ...]
Corner = tuple[int, ...]

_RING = ((0, 0), (0, 1), (1, 1), (1, 0))


def cell_codes(mask: Bool[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*cells"]:
    """Code of every cell of a mask whose outside is empty.

    Cells are one more than voxels on each axis: cell c lies between voxels c - 1 and c. The corner
    (dk, dj, di) sets bit 4 dk + 2 dj + di, in 2D 2 dj + di.
    """
    codes = np.pad(mask, 1).astype(np.uint8)
    for step, axis in enumerate(reversed(range(mask.ndim))):
        low, high = _head(codes, axis), _tail(codes, axis)
        codes = low | (high << np.uint8(1 << step))
    return codes


def cell_measures(spacing_mm: tuple[float, ...]) -> Float[np.ndarray, " codes"]:
    """Area in mm^2 (2D: length in mm) of the surface in a cell, by code; 0 for empty and full."""
    steps = np.asarray(spacing_mm, dtype=np.float64)
    if len(spacing_mm) == 2:
        return np.linalg.norm(_segments() * steps, axis=-1).sum(axis=-1)
    # a normal's component along an axis is an area across the two other axes
    return np.linalg.norm(_normals() * (steps.prod() / steps), axis=-1).sum(axis=-1)


def _head(array: np.ndarray, axis: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(None, -1),)]


def _tail(array: np.ndarray, axis: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(1, None),)]


def _is_inside(code: int, corner: Corner) -> bool:
    bit = sum(value << step for step, value in enumerate(reversed(corner)))
    return bool(code >> bit & 1)


def _face_segments(code: int, ring: list[Corner], separate: bool) -> list[tuple[Point, Point]]:
    """Contour on one square face; `separate` is the kind of corner cut off where two ways exist."""
    middle = lambda a, b: tuple((p + q) / 2 for p, q in zip(a, b, strict=True))  # noqa: E731
    inside = [_is_inside(code, corner) for corner in ring]
    before = [middle(ring[i - 1], ring[i]) for i in range(4)]
    crossed = [i for i in range(4) if inside[i - 1] != inside[i]]
    if len(crossed) == 2:
        return [(before[crossed[0]], before[crossed[1]])]
    return [
        (before[i], before[(i + 1) % 4])
        for i in range(4)
        if len(crossed) == 4 and inside[i] == separate
    ]


def _polygons(code: int) -> list[np.ndarray]:
    """Closed polygons of the surface in one 3D cell, vertices in unit-cell coordinates."""
    neighbours: dict[Point, list[Point]] = {}
    is_minority_inside = code.bit_count() <= 4
    for axis, side in product(range(3), range(2)):
        ring: list[Corner] = [(*pair[:axis], side, *pair[axis:]) for pair in _RING]
        for start, end in _face_segments(code, ring, separate=is_minority_inside):
            neighbours.setdefault(start, []).append(end)
            neighbours.setdefault(end, []).append(start)
    polygons = []
    while neighbours:
        polygon, following = [], [next(iter(neighbours))]
        while following:
            polygon.append(following[0])
            following = [p for p in neighbours.pop(following[0]) if p in neighbours]
        polygons.append(np.array(polygon))
    return polygons


def _fan_normals(polygon: np.ndarray) -> np.ndarray:
    """Normals (length: area) of the triangles of the largest fan; equal fans are equivalent."""
    fans = []
    for apex in range(len(polygon)):
        spokes = np.roll(polygon, -apex, axis=0)[1:] - polygon[apex]
        fans.append(np.cross(spokes[:-1], spokes[1:]) / 2)
    return max(fans, key=lambda fan: round(float(np.linalg.norm(fan, axis=1).sum()), 9))


@lru_cache(maxsize=1)
def _normals() -> Float[np.ndarray, "256 triangles 3"]:
    """Normals of the triangles of each code on the unit cell, padded with zeros."""
    pieces = [[_fan_normals(polygon) for polygon in _polygons(code)] for code in range(256)]
    normals = [np.concatenate([np.zeros((0, 3)), *fans]) for fans in pieces]
    table = np.zeros((256, max(map(len, normals)), 3))
    for code, rows in enumerate(normals):
        table[code, : len(rows)] = rows
    return table


@lru_cache(maxsize=1)
def _segments() -> Float[np.ndarray, "16 segments 2"]:
    """Extent of the contour segments of each code on the unit square, padded with zeros."""
    table = np.zeros((16, 2, 2))
    for code in range(16):
        for row, (start, end) in enumerate(_face_segments(code, list(_RING), separate=True)):
            table[code, row] = np.subtract(end, start)
    return table
