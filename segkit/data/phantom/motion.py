"""Paths along which the parts of a clip move."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from segkit.data.phantom.fields import smooth_field

Plane = Float32[np.ndarray, "size size"]


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Where a part is in each frame, as a map from a frame back to the canvas it was drawn on.

    `shift` is in pixels, `turn` in radians, `scale` relative to the canvas along rows and columns;
    `bend` scales a smooth displacement `field`. A part whose scale is 0 is not visible.
    """

    centre: tuple[float, float]
    shift: Float64[np.ndarray, "t 2"]
    turn: Float64[np.ndarray, " t"]
    scale: Float64[np.ndarray, "t 2"]
    bend: Float64[np.ndarray, " t"]
    field: Float32[np.ndarray, "2 size size"]

    @property
    def is_visible(self) -> Bool[np.ndarray, " t"]:
        """Whether the part is in the plane of each frame."""
        return self.scale.min(1) > 0.12

    def source(self, index: int, rows: Plane, cols: Plane) -> tuple[Plane, Plane]:
        """Rows and columns on the canvas that places in frame `index` show."""
        cos, sin = math.cos(self.turn[index]), math.sin(self.turn[index])
        bend = np.float32(self.bend[index])
        y = rows - np.float32(self.centre[0] + self.shift[index, 0]) + bend * self.field[0]
        x = cols - np.float32(self.centre[1] + self.shift[index, 1]) + bend * self.field[1]
        high, wide = np.maximum(self.scale[index], 0.05)
        return (
            np.float32(cos / high) * y + np.float32(sin / high) * x + np.float32(self.centre[0]),
            np.float32(cos / wide) * x - np.float32(sin / wide) * y + np.float32(self.centre[1]),
        )


def draw_path(
    rng: np.random.Generator,
    times: Float64[np.ndarray, " t"],
    size: int,
    centre: tuple[float, float],
    *,
    is_body: bool,
) -> Path:
    """Draw a path: bodies drift, turn, beat, bend and may pass through the plane.

    What is no body moves a little, as by breathing or an unsteady hand. `times` counts beats.
    """
    lively = 1.0 if is_body else 0.3
    shift = size * lively * _sway(rng, times, 2, 0.04)
    scale = np.ones((len(times), 2)) + lively * _sway(rng, times, 2, 0.04)
    if is_body and rng.random() < 0.35:  # travels, perhaps out of the frame
        shift = shift + size * rng.normal(0, 0.25, 2) * times[:, None]
    if is_body and rng.random() < 0.5:
        scale = scale * _beat(rng, times)[:, None]
    if is_body and rng.random() < 0.3:
        scale = scale * _passage(rng, times)[:, None]
    return Path(
        centre,
        shift,
        lively * _sway(rng, times, 1, 0.15)[:, 0],
        scale,
        size * lively * _sway(rng, times, 1, 0.03)[:, 0],
        np.stack([smooth_field(rng, size, int(rng.integers(2, 6))) for _ in range(2)]),
    )


def _sway(
    rng: np.random.Generator, times: Float64[np.ndarray, " t"], count: int, most: float
) -> Float64[np.ndarray, "t count"]:
    """Slow waves that start at 0, up to about `most` high."""
    height = rng.normal(0, most, count) * (rng.random() < 0.8)
    pitch, phase = rng.uniform(0.3, 1.5, count), rng.uniform(0, 2 * np.pi, count)
    wave = np.sin(2 * np.pi * times[:, None] * pitch + phase)
    return height * (wave - np.sin(phase))


def _beat(rng: np.random.Generator, times: Float64[np.ndarray, " t"]) -> Float64[np.ndarray, " t"]:
    """Contract and relax once per unit of time, down to half the diameter."""
    depth, phase = rng.uniform(0.1, 0.5), rng.uniform(0, 1)
    return 1 - depth * 0.5 * (1 + np.cos(2 * np.pi * (times + phase)))


def _passage(
    rng: np.random.Generator, times: Float64[np.ndarray, " t"]
) -> Float64[np.ndarray, " t"]:
    """Diameter of a ball that passes through the plane: it appears, grows, shrinks, is gone."""
    span = max(float(times[-1]), 1e-3)
    middle, half = rng.uniform(0, 1) * span, rng.uniform(0.3, 1.2) * span
    inside = 1 - ((times - middle) / half) ** 2
    return np.sqrt(np.clip(inside, 0, None))
