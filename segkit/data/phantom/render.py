"""From a label map to a picture: contrast, texture, blur, bias, noise and other faults."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from segkit.data.phantom.fields import blur, coarse_matrix, smooth_field
from segkit.data.phantom.scene import Layout

Colour = Float32[np.ndarray, "regions channels"]
Picture = Float32[np.ndarray, "channels size size"]


@dataclass(frozen=True, slots=True)
class Look:
    """How strong each effect is; all in units of the full intensity range, blur in pixels."""

    channels: int
    contrast: float
    texture: float
    relief: float
    rim: float
    sigma: float
    coarse: int
    bias: float
    noise: float
    speckle: float

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> "Look":
        """Draw a random look for a picture of `size` pixels a side."""
        return cls(
            channels=3 if rng.random() < 0.5 else 1,
            contrast=float(np.exp(rng.uniform(np.log(0.1), np.log(0.55)))),
            texture=float(rng.choice([0.0, 0.3, 0.7, 1.2])) * rng.uniform(0.02, 0.1),
            relief=rng.uniform(0, 0.22),
            rim=float(rng.choice([-1, 1], p=[0.2, 0.8])) * rng.uniform(0.15, 0.6),
            sigma=size / 256 * float(rng.choice([0.4, 0.7, 1.2, 2.2])) * rng.uniform(0.8, 1.3),
            coarse=int(size / rng.uniform(2, 6)) if rng.random() < 0.2 else 0,
            bias=rng.uniform(0, 0.5) * (rng.random() < 0.7),
            noise=rng.uniform(0, 0.06) * (rng.random() < 0.6),
            speckle=rng.uniform(0.1, 0.35) * (rng.random() < 0.2),
        )


def region_colours(rng: np.random.Generator, layout: Layout, look: Look) -> Colour:
    """Mean colour of each region: that of its parent plus a contrast; one per kind for cells."""
    colours = np.zeros((len(layout.kinds), look.channels), np.float32)
    colours[0] = rng.uniform(0.1, 0.8) + rng.normal(0, 0.12, look.channels)
    shared: dict[str, np.ndarray] = {}
    for region in range(1, len(layout.kinds)):
        kind = layout.kinds[region]
        step = look.contrast * rng.uniform(0.6, 1.6) * rng.choice([-1, 1])
        step = step * (1 + rng.normal(0, 0.5, look.channels) * (look.channels == 3))
        if kind == "outlined":
            step = 0.2 * step
        if kind in ("cell", "tree"):
            step = shared.setdefault(kind, step) * rng.uniform(0.7, 1.1)
        colour = colours[layout.parents[region]] + step
        # a colour beyond the range would be clipped into its parent's: reflect it instead
        colours[region] = np.where((colour < 0) | (colour > 1), colour - 2 * step, colour)
    return np.clip(colours, 0, 1)


def texture(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "size size"]:
    """A texture of unit deviation: grain, clouds, stripes or cells of random scale."""
    kind = rng.integers(4)
    if kind == 0:
        return smooth_field(rng, size, int(rng.integers(size // 8, size // 2)))
    if kind == 1:
        return 0.7 * (smooth_field(rng, size, 8) + smooth_field(rng, size, 24))
    warp = smooth_field(rng, size, int(rng.integers(3, 10)))
    if kind == 2:
        angle, pitch = rng.uniform(0, np.pi), size / 256 * rng.uniform(4, 24)
        line = np.arange(size, dtype=np.float32) / pitch
        turn = 2 * math.pi * (math.cos(angle) * line[:, None] + math.sin(angle) * line)
        return np.sin(turn + 2 * warp)
    grain = smooth_field(rng, size, int(rng.integers(size // 16, size // 4)))
    return 1.5 * np.abs(grain) - 1.2


def render(rng: np.random.Generator, layout: Layout) -> UInt8[np.ndarray, "size size 3"]:
    """Picture of a layout in a random look; grey pictures have three equal channels."""
    size = layout.labels.shape[0]
    look = Look.draw(rng, size)
    colours = region_colours(rng, layout, look)
    picture = colours.T[:, layout.labels]
    picture += tint(rng, look) * relief_and_texture(rng, layout, look)
    return acquire(rng, picture, look, layout.view)


def acquire(
    rng: np.random.Generator,
    picture: Picture,
    look: Look,
    view: Bool[np.ndarray, "size size"],
    noise: np.random.Generator | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """Show a picture of ideal intensities as a device would: blur, uneven light, noise, window.

    `noise` is the source of what changes from frame to frame, `rng` unless given. `view` is black
    outside.
    """
    size = picture.shape[-1]
    if look.coarse:
        matrix = coarse_matrix(size, max(look.coarse, 4))
        picture = matrix @ picture @ matrix.T
    picture = np.stack([blur(channel, look.sigma) for channel in picture])
    if rng.random() < 0.3:
        _highlights(rng, picture)
    picture *= np.exp(look.bias * smooth_field(rng, size, int(rng.integers(1, 4))))
    if rng.random() < 0.15:
        _streaks(rng, picture)
    _noise(rng, noise or rng, picture, look)
    picture = np.clip(picture, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.25)))
    picture *= view
    if rng.random() < 0.3:
        # windowed display: part of the range saturates
        picture = np.clip((picture - rng.uniform(0, 0.15)) / rng.uniform(0.6, 0.9), 0, 1)
    shown = (255 * picture + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, (3, size, size)).transpose(1, 2, 0))


def tint(rng: np.random.Generator, look: Look) -> Float32[np.ndarray, "channels 1 1"]:
    """How much of relief and texture each channel shows."""
    return rng.uniform(0.5, 1, (look.channels, 1, 1)).astype(np.float32)


def relief_and_texture(
    rng: np.random.Generator, layout: Layout, look: Look
) -> Float32[np.ndarray, "size size"]:
    """What is added to the mean colours: relief, drawn outlines and two textures by region."""
    regions = len(layout.kinds)
    grey = look.relief * layout.shade + look.rim * layout.rim
    if look.texture > 0:
        for _ in range(2):
            strength = look.texture * rng.gamma(1, 1, regions).astype(np.float32)
            grey += strength[layout.labels] * texture(rng, layout.labels.shape[0])
    return grey


def _highlights(rng: np.random.Generator, picture: Picture) -> None:
    """Specular spots of wet surfaces (colour) or bright echoes and metal (grey)."""
    size = picture.shape[-1]
    for _ in range(rng.integers(1, 9)):
        r = int(rng.integers(1, max(size // 40, 2)))
        y, x = rng.integers(0, size - 2 * r - 1, 2)
        rows, cols = np.ogrid[-r : r + 1, -r : r + 1]
        spot = (rows**2 + (cols * rng.uniform(0.5, 1)) ** 2 <= r * r) * rng.uniform(0.3, 1)
        patch = picture[:, y : y + 2 * r + 1, x : x + 2 * r + 1]
        np.maximum(patch, spot.astype(np.float32), out=patch)


def _streaks(rng: np.random.Generator, picture: Picture) -> None:
    """Dark or bright wedges from a point, as shadows and metal cause them."""
    size = picture.shape[-1]
    rows, cols = np.ogrid[:size, :size]
    y, x = rng.uniform(-0.2, 1.2, 2) * size
    angle = np.arctan2(rows - y, cols - x).astype(np.float32)
    wave = np.zeros_like(angle)
    for _ in range(rng.integers(1, 5)):
        width = rng.uniform(0.02, 0.12)
        wave += rng.uniform(-0.6, 0.3) * np.exp(
            -(((angle - rng.uniform(-np.pi, np.pi)) / width) ** 2)
        )
    picture *= 1 + wave


def _noise(
    rng: np.random.Generator, noise: np.random.Generator, picture: Picture, look: Look
) -> None:
    """Add noise in place: its kind comes from `rng`, its values from `noise`."""
    size = picture.shape[-1]
    if look.speckle:
        grain = smooth_field(noise, size, int(rng.integers(size // 6, size // 2)))
        picture *= np.exp(look.speckle * grain)
    if look.noise:
        if rng.random() < 0.3:
            cells = int(rng.integers(size // 6, size // 2))
            picture += look.noise * smooth_field(noise, size, cells)
        else:
            picture += look.noise * noise.standard_normal(picture.shape, dtype=np.float32)
