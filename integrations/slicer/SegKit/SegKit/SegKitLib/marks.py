"""What a user marks, in voxels; numpy only.

Positions are voxel indices in array order (k, j, i), voxel centres at whole numbers; boxes are
half-open edges, one (low, high) per axis.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

Edges = tuple[tuple[int, int], ...]


class MarkError(Exception):
    """A mark that cannot be used; the message says why and is for the user."""


class SceneError(Exception):
    """Nodes that are gone or cannot be used together; the message is for the user."""


@dataclass(frozen=True)
class Target:
    """One segment seen on one volume, by the ids of their nodes."""

    volume: str
    segmentation: str
    segment: str


@dataclass(frozen=True)
class Click:
    """A point on the object (label 1) or beside it (0)."""

    index: tuple[float, float, float]
    label: int = 1

    def send(self, session: Any) -> None:
        """Add it to a session."""
        session.add_points([self.index], [self.label])


@dataclass(frozen=True)
class Box:
    """A box around the object, or one to clear (label 0)."""

    edges: Edges
    label: int = 1

    def send(self, session: Any) -> None:
        """Add it to a session."""
        low, high = zip(*self.edges, strict=True)
        session.add_box((low, high), self.label)


@dataclass(frozen=True, eq=False)
class Drawing:
    """A scribble, or what a lasso encloses: voxels inside `edges`."""

    kind: str
    voxels: np.ndarray
    edges: Edges
    label: int = 1

    def send(self, session: Any) -> None:
        """Add it to a session."""
        add = session.add_scribble if self.kind == "scribble" else session.add_lasso
        add(self.voxels, self.label, box=self.edges)


@dataclass(frozen=True)
class Propagate:
    """Carry the object through slices `start` to before `stop`."""

    start: int
    stop: int

    def send(self, session: Any) -> None:
        """Add it to a session."""
        session.propagate(start=self.start, stop=self.stop)


Mark = Click | Box | Drawing | Propagate


def click(point: np.ndarray, shape: tuple[int, ...], label: int = 1) -> Click:
    """Click on the voxel that holds a point.

    Raises:
        MarkError: The point lies outside the volume.
    """
    index = _inside(np.rint(np.asarray(point, np.float64).reshape(1, 3)), shape, "the point")[0]
    return Click((float(index[0]), float(index[1]), float(index[2])), label)


def box(corners: np.ndarray, shape: tuple[int, ...], label: int = 1) -> Box:
    """Smallest box of voxels that holds all corners, cut at the border of the volume.

    Raises:
        MarkError: There are fewer than two corners, or the box lies outside the volume.
    """
    if len(corners) < 2:
        raise MarkError("a box needs two opposite corners")
    rounded = np.rint(corners)
    low = np.maximum(rounded.min(axis=0), 0)
    high = np.minimum(rounded.max(axis=0) + 1, shape)
    if (high <= low).any():
        raise MarkError("the box lies outside the volume")
    return Box(_edges(low, high), label)


def scribble(points: np.ndarray, shape: tuple[int, ...], label: int = 1) -> Drawing:
    """Voxels that a polyline passes; what leaves the volume is left out.

    Raises:
        MarkError: No part of the line lies inside the volume.
    """
    if len(points) == 0:
        raise MarkError("the scribble has no points")
    steps = [points[:1]]
    for start, end in itertools.pairwise(points):
        # half a voxel at most from one sample to the next, so that none is jumped over
        count = max(1, int(np.ceil(2 * np.abs(end - start).max())))
        steps.append(start + (end - start) * np.arange(1, count + 1)[:, None] / count)
    voxels = np.unique(np.rint(np.concatenate(steps)).astype(np.int64), axis=0)
    return _drawing("scribble", voxels, shape, label)


def lasso(points: np.ndarray, shape: tuple[int, ...], label: int = 1) -> Drawing:
    """Voxels inside a closed curve on a plane, which may be oblique to the voxels.

    Raises:
        MarkError: The curve encloses nothing, or nothing inside the volume.
    """
    if len(points) < 3:
        raise MarkError("a lasso needs three points or more")
    centre = points.mean(axis=0)
    normal = np.linalg.svd(points - centre, full_matrices=False)[2][2]
    depth = int(np.abs(normal).argmax())
    flat = [axis for axis in range(3) if axis != depth]
    low = np.maximum(np.floor(points[:, flat].min(axis=0)), 0).astype(int)
    last = np.minimum(np.ceil(points[:, flat].max(axis=0)), np.array(shape)[flat] - 1).astype(int)
    if (last < low).any():
        raise MarkError("the lasso lies outside the volume")
    rows, columns = np.meshgrid(*map(np.arange, low, last + 1), indexing="ij")
    inside = _is_inside(rows, columns, points[:, flat])
    voxels = np.empty((int(inside.sum()), 3), np.int64)
    voxels[:, flat] = np.stack([rows[inside], columns[inside]], axis=1)
    # the plane gives the third index
    shift = (voxels[:, flat] - centre[flat]) @ normal[flat] / normal[depth]
    voxels[:, depth] = np.rint(centre[depth] - shift)
    if len(voxels) == 0:
        raise MarkError("the lasso encloses no voxel")
    return _drawing("lasso", voxels, shape, label)


def _is_inside(rows: np.ndarray, columns: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Even-odd rule: count the edges that a ray along the columns crosses."""
    inside = np.zeros(rows.shape, bool)
    for (r0, c0), (r1, c1) in zip(curve, np.roll(curve, -1, axis=0), strict=True):
        if r0 == r1:
            continue
        crosses = (rows >= min(r0, r1)) & (rows < max(r0, r1))
        inside ^= crosses & (columns < c0 + (rows - r0) * (c1 - c0) / (r1 - r0))
    return inside


def _drawing(kind: str, voxels: np.ndarray, shape: tuple[int, ...], label: int) -> Drawing:
    voxels = _inside(voxels, shape, f"the {kind}")
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    drawn = np.zeros(tuple(high - low), bool)
    drawn[tuple((voxels - low).T)] = True
    return Drawing(kind, drawn, _edges(low, high), label)


def _inside(index: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    kept = index[((index >= 0) & (index < shape)).all(axis=1)]
    if len(kept) == 0:
        raise MarkError(f"{what} lies outside the volume")
    return kept


def _edges(low: np.ndarray, high: np.ndarray) -> Edges:
    return tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))
