"""What a user draws: scribbles and closed curves, from voxels or from vertices.

Vertices are voxel indices in array order or millimetres, as clicks are. Scribbles become clicks,
because that is what models understand; a closed curve becomes the region inside it.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from segkit.errors import InputError
from segkit.geometry import Geometry, Space
from segkit.predictors.marks import Numbers, Point, Region, check_labels, check_points

Drawing = Bool[np.ndarray, "..."] | Sequence[Numbers]
"""Voxels on the grid of the image, or the vertices of a line."""
Slices = Callable[[Float[np.ndarray, "points axes"]], Int[np.ndarray, " points"]]
"""The model input on which each voxel index lies."""


def check_scribble(
    drawing: Drawing,
    label: int,
    shape: tuple[int, ...],
    geometry: Geometry | None,
    space: Space,
    *,
    slices: Slices,
    most: int,
) -> tuple[Point, ...]:
    """Clicks along a scribble: at most `most` on each model input, as far apart as possible.

    Raises:
        InputError: The scribble is empty, of another shape, or leaves the image.
    """
    check_labels([label])
    if isinstance(drawing, np.ndarray) and drawing.dtype == np.bool_:
        voxels = np.argwhere(_checked(drawing, shape, "scribble"))
    else:
        voxels = _line(_vertices(drawing, shape, geometry, space))
    spacing = (1.0,) * len(shape) if geometry is None else geometry.spacing_mm
    lies_on = slices(voxels.astype(np.float64))
    chosen = [
        part[spread_out(part * np.array(spacing), most)]
        for part in (voxels[lies_on == number] for number in np.unique(lies_on))
    ]
    return tuple(Point(tuple(map(float, voxel)), label) for voxel in np.concatenate(chosen))


def check_lasso(
    drawing: Drawing,
    label: int,
    shape: tuple[int, ...],
    geometry: Geometry | None,
    space: Space,
) -> Region:
    """Voxels inside a closed curve on one slice (of any axis), or the given voxels.

    Raises:
        InputError: The curve encloses no voxel, does not lie on one slice, or leaves the image.
    """
    check_labels([label])
    if isinstance(drawing, np.ndarray) and drawing.dtype == np.bool_:
        inside = _checked(drawing, shape, "lasso")
        voxels = np.argwhere(inside)
        first, last = voxels.min(axis=0), voxels.max(axis=0) + 1
        crop = inside[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
        return Region(tuple(map(int, first)), crop.copy(), label)
    return _filled(_vertices(drawing, shape, geometry, space), label, shape)


def spread_out(points: Float[np.ndarray, "n axes"], most: int) -> Int[np.ndarray, " chosen"]:
    """Choose at most `most` points, each as far as possible from those before (a fixed order).

    The first is the one nearest to the centre of all (source: farthest-point traversal, Gonzalez,
    "Clustering to minimize the maximum intercluster distance", 1985).
    """
    start = int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin())
    chosen, away = [start], ((points - points[start]) ** 2).sum(axis=1)
    while len(chosen) < min(most, len(points)) and away.max() > 0:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen)


def _checked(
    drawing: Bool[np.ndarray, "..."], shape: tuple[int, ...], name: str
) -> Bool[np.ndarray, "..."]:
    if drawing.shape != shape:
        raise InputError(
            f"{name} has shape {drawing.shape}",
            fix=f"give a bool array of shape {shape}, or the vertices of a line",
            code="prompt_mask",
        )
    if not drawing.any():
        raise InputError(f"the {name} is empty", fix="draw at least one voxel", code="prompt_empty")
    return drawing


def _vertices(
    drawing: Drawing, shape: tuple[int, ...], geometry: Geometry | None, space: Space
) -> Float[np.ndarray, "points axes"]:
    if len(drawing) == 0:
        raise InputError(
            "the drawing has no vertices", fix="give at least one", code="prompt_empty"
        )
    points = [tuple(map(float, vertex)) for vertex in drawing]
    checked = check_points(points, [1] * len(points), shape, geometry, space)
    return np.array([point.index for point in checked])


def _line(vertices: Float[np.ndarray, "points axes"]) -> Int[np.ndarray, "voxels axes"]:
    """Voxels along a polyline, in its order."""
    parts = [vertices[:1]]
    for start, stop in itertools.pairwise(vertices):
        count = int(np.ceil(2 * np.abs(stop - start).max())) + 1
        parts.append(np.linspace(start, stop, count + 1)[1:])
    voxels = np.rint(np.concatenate(parts)).astype(int)
    keep = np.ones(len(voxels), dtype=bool)
    keep[1:] = (voxels[1:] != voxels[:-1]).any(axis=1)
    return voxels[keep]


def _filled(
    vertices: Float[np.ndarray, "points axes"], label: int, shape: tuple[int, ...]
) -> Region:
    flat = np.ptp(np.rint(vertices), axis=0) == 0
    axes = [axis for axis in range(len(shape)) if len(shape) == 2 or not flat[axis]]
    if len(axes) == 3:
        spans = np.ptp(vertices, axis=0).round(1).tolist()
        raise InputError(
            f"a lasso lies on one slice; this one spans {spans} voxels along (k, j, i)",
            fix=f"keep one coordinate the same, image shape is {shape}",
            code="prompt_slice",
        )
    inside = np.zeros(0, dtype=bool)
    if len(axes) == 2:
        low = np.rint(vertices.min(axis=0)).astype(int)
        high = np.rint(vertices.max(axis=0)).astype(int) + 1
        grids = np.meshgrid(*(np.arange(low[a], high[a]) for a in axes), indexing="ij")
        inside = _inside(np.stack(grids, axis=-1), vertices[:, axes])
    if not inside.any():
        raise InputError(
            f"the lasso of {len(vertices)} vertices encloses no voxel",
            fix="give at least three vertices that are not on one line",
            code="prompt_empty",
        )
    return Region(tuple(map(int, low)), inside.reshape(tuple(high - low)), label)


def _inside(
    points: Int[np.ndarray, "rows cols 2"], polygon: Float[np.ndarray, "vertices 2"]
) -> Bool[np.ndarray, "rows cols"]:
    """Even-odd rule at voxel centres."""
    row, col = points[..., 0], points[..., 1]
    inside = np.zeros(row.shape, dtype=bool)
    for (r0, c0), (r1, c1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if r0 != r1:
            crosses = (r0 > row) != (r1 > row)
            inside ^= crosses & (col < c0 + (row - r0) * (c1 - c0) / (r1 - r0))
    return inside
