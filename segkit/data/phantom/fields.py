"""Smooth random fields, blur and resampling as small matrix products.

Every operation on a square picture is `rows @ picture @ rows.T` with a cached matrix, which costs
a fraction of a millisecond on one core and needs no image library.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32


@lru_cache(maxsize=256)
def spline_matrix(size: int, cells: int) -> Float32[np.ndarray, "size knots"]:
    """Cubic B-spline basis on `cells` intervals: `size` samples from `cells + 3` coefficients."""
    position = (np.arange(size) + 0.5) / size * cells
    base = np.minimum(position.astype(np.int64), cells - 1)
    t = position - base
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    matrix = np.zeros((size, cells + 3), np.float32)
    np.put_along_axis(matrix, base[:, None] + np.arange(4), (weights / 6).astype(np.float32), 1)
    return matrix


@lru_cache(maxsize=256)
def blur_matrix(size: int, tenths: int) -> Float32[np.ndarray, "size size"]:
    """Gaussian blur with a standard deviation of `tenths / 10` pixels, rows summing to one."""
    index = np.arange(size)
    distance = (index[:, None] - index[None]) / (max(tenths, 1) / 10)
    matrix = np.exp(-0.5 * distance**2)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=256)
def coarse_matrix(size: int, small: int) -> Float32[np.ndarray, "size size"]:
    """Average down to `small` samples and interpolate linearly back to `size`."""
    edges = np.linspace(0, size, small + 1)
    index = np.arange(size)
    overlap = np.minimum(index[None] + 1, edges[1:, None]) - np.maximum(
        index[None], edges[:-1, None]
    )
    down = np.clip(overlap, 0, None)
    down /= down.sum(1, keepdims=True)
    position = np.clip((index + 0.5) / size * small - 0.5, 0, small - 1)
    base = np.minimum(position.astype(np.int64), max(small - 2, 0))
    t = position - base
    up = np.zeros((size, small))
    up[index, base] = 1 - t
    up[index, np.minimum(base + 1, small - 1)] += t
    return (up @ down).astype(np.float32)


def smooth_field(
    rng: np.random.Generator, size: int, cells: int
) -> Float32[np.ndarray, "size size"]:
    """Random field of about unit deviation whose details are `size / cells` pixels wide."""
    matrix = spline_matrix(size, cells)
    knots = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    # a cubic spline averages: 2.2 restores the unit deviation of its coefficients
    return 2.2 * (matrix @ knots @ matrix.T)


def smooth_curve(rng: np.random.Generator, size: int, cells: int) -> Float32[np.ndarray, " size"]:
    """One-dimensional random curve of about unit deviation."""
    knots = rng.standard_normal(cells + 3, dtype=np.float32)
    return 1.5 * (spline_matrix(size, cells) @ knots)


def blur(
    picture: Float32[np.ndarray, "size size"], sigma: float
) -> Float32[np.ndarray, "size size"]:
    """Gaussian blur of a square picture; `sigma` in pixels, rounded to a tenth."""
    matrix = blur_matrix(picture.shape[0], round(10 * sigma))
    return matrix @ picture @ matrix.T
