"""Random clips with region maps: the training material of `nano2`.

A clip is a background and a few bodies on top of it. Each body follows a path of its own: it
drifts, turns, beats, bends, passes through the plane and so appears and disappears, and may hide
another one. Contrast, light and device stay the same through a clip; noise does not.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from segkit.data.phantom import shapes
from segkit.data.phantom.motion import Path, draw_path
from segkit.data.phantom.picture import PhantomPicture, draw_layout
from segkit.data.phantom.render import Look, acquire, region_colours, relief_and_texture, tint
from segkit.data.phantom.scene import Layout, Scene

MOST_BODIES = 4


@dataclass(frozen=True, slots=True, eq=False)
class PhantomClip:
    """Frames, their region numbers and the region around each region (0 = background)."""

    frames: UInt8[np.ndarray, "t size size 3"]
    labels: UInt8[np.ndarray, "t size size"]
    parents: UInt8[np.ndarray, " regions"]
    kinds: tuple[str, ...]

    def picture(self, index: int) -> PhantomPicture:
        """One frame with all it takes to choose targets in it."""
        return PhantomPicture(self.frames[index], self.labels[index], self.parents, self.kinds)

    def mask(self, members: tuple[int, ...]) -> Bool[np.ndarray, "t size size"]:
        """Pixels of the given regions in every frame."""
        chosen = np.zeros(len(self.parents), bool)
        chosen[list(members)] = True
        return chosen[self.labels]


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A part of the scene that moves as one; label 0 shows what lies behind."""

    labels: UInt8[np.ndarray, "size size"]
    grey: Float32[np.ndarray, "size size"]
    path: Path


def phantom_clip(seed: int | tuple[int, ...], frames: int = 8, size: int = 128) -> PhantomClip:
    """Draw the clip that belongs to `seed`: the same seed gives the same clip.

    Args:
        seed: any non-negative integer, or several (for example run, step, position).
        frames: number of frames; how far apart they are in time is random.
        size: side in pixels.

    Raises:
        ValueError: `frames` is below 1.

    Example:
        >>> phantom_clip(7, 3, 64).frames.shape
        (3, 64, 64, 3)
    """
    if frames < 1:
        raise ValueError(f"a clip needs at least one frame, got frames={frames}")
    rng = np.random.default_rng(seed)
    look = Look.draw(rng, size)
    layouts = [draw_layout(rng, size), *_bodies(rng, size)]
    times = np.exp(rng.uniform(np.log(0.02), np.log(0.4))) * np.arange(frames)
    paths = [
        draw_path(rng, times, size, _centre(layout), is_body=index > 0)
        for index, layout in enumerate(layouts)
    ]
    layers = _layers(rng, layouts, paths, look)
    merged = _merged(layouts)
    colours = region_colours(rng, _seen_from(merged, layouts), look)
    share, device, noise = tint(rng, look), rng.integers(2**32), rng.spawn(1)[0]
    shown, labels = [], []
    for index in range(frames):
        regions, grey = _flatten(layers, index)
        regions[~merged.view] = 0
        picture = colours.T[:, regions] + share * grey
        picture *= np.float32(np.exp(noise.normal(0, 0.03)))
        # the same draws for every frame: light, highlights, shadows and window belong to the device
        shown.append(acquire(np.random.default_rng(device), picture, look, merged.view, noise))
        labels.append(regions)
    return PhantomClip(np.stack(shown), np.stack(labels), merged.parents, merged.kinds)


def _bodies(rng: np.random.Generator, size: int) -> list[Layout]:
    """One to four bodies, some with lesions, each on a canvas of its own."""
    layouts = []
    for _ in range(int(rng.integers(1, MOST_BODIES + 1))):
        scene = Scene(rng, size)
        radius = size * float(np.exp(rng.uniform(np.log(0.06), np.log(0.3))))
        y, x = rng.uniform(0.15, 0.85, 2) * size
        draw = shapes.blob if rng.random() < 0.15 else shapes.body
        number = draw(scene, (float(y), float(x)), radius)
        if number is not None and rng.random() < 0.3:
            shapes.lesions(scene, number, int(rng.integers(1, 3)))
        layouts.append(scene.finish())
    return layouts


def _centre(layout: Layout) -> tuple[float, float]:
    """Centre of mass of what was drawn; that of the canvas where nothing was."""
    rows, cols = np.nonzero(layout.labels)
    if not rows.size:
        return layout.labels.shape[0] / 2, layout.labels.shape[1] / 2
    return float(rows.mean()), float(cols.mean())


def _merged(layouts: list[Layout]) -> Layout:
    """All regions in one numbering; the pixels are those of the background."""
    parents, kinds = [layouts[0].parents], layouts[0].kinds
    for layout in layouts[1:]:
        inner = layout.parents[1:].astype(np.int64)
        parents.append(np.where(inner > 0, inner + len(kinds) - 1, 0).astype(np.uint8))
        kinds = (*kinds, *layout.kinds[1:])
    back = layouts[0]
    return Layout(back.labels, np.concatenate(parents), kinds, back.shade, back.rim, back.view)


def _seen_from(merged: Layout, layouts: list[Layout]) -> Layout:
    """The same with bodies as children of what lies behind them, for the contrast to it."""
    parents, first = merged.parents.copy(), len(layouts[0].kinds)
    for layout in layouts[1:]:
        regions = len(layout.kinds) - 1
        behind = merged.labels[layout.labels > 0]
        if behind.size:
            ground = np.bincount(behind).argmax()
            own = parents[first : first + regions]
            own[own == 0] = ground
        first += regions
    return Layout(merged.labels, parents, merged.kinds, merged.shade, merged.rim, merged.view)


def _layers(
    rng: np.random.Generator, layouts: list[Layout], paths: list[Path], look: Look
) -> list[_Layer]:
    layers, first = [], 0
    for layout, path in zip(layouts, paths, strict=True):
        labels = np.where(layout.labels > 0, layout.labels + np.uint8(first), 0).astype(np.uint8)
        layers.append(_Layer(labels, relief_and_texture(rng, layout, look), path))
        first += len(layout.kinds) - 1
    return layers


def _flatten(
    layers: list[_Layer], index: int
) -> tuple[UInt8[np.ndarray, "size size"], Float32[np.ndarray, "size size"]]:
    """Region numbers and grey of one frame: bodies move with the background and on their own."""
    size = layers[0].labels.shape[0]
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    rows, cols = layers[0].path.source(index, rows, cols)
    pixels = _pixels(rows, cols, size)
    labels, grey = layers[0].labels.ravel()[pixels], layers[0].grey.ravel()[pixels]
    for layer in layers[1:]:
        if not layer.path.is_visible[index]:
            continue
        y, x = layer.path.source(index, rows, cols)
        pixels = _pixels(y, x, size)
        front = layer.labels.ravel()[pixels]
        front[(y < 0) | (y > size - 1) | (x < 0) | (x > size - 1)] = 0
        covers = front > 0
        labels[covers] = front[covers]
        grey[covers] = layer.grey.ravel()[pixels[covers]]
    return labels, grey


def _pixels(
    rows: Float32[np.ndarray, "size size"], cols: Float32[np.ndarray, "size size"], size: int
) -> Int64[np.ndarray, "size size"]:
    """Nearest pixels of source coordinates, mirrored at the border of the canvas."""
    folded = []
    for axis in (rows, cols):
        place = np.rint(axis).astype(np.int64) % (2 * size)
        folded.append(np.minimum(place, 2 * size - 1 - place))
    return folded[0] * size + folded[1]
