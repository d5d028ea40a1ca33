"""Generated pictures with captions: objects that differ in the words one would use for them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from segkit.data.phantom.fields import blur, smooth_field
from tools.text.vocabulary import SHAPES, TONES, Kind, describe

MAX_KINDS = 3
SMALL, LARGE = 0.075, 0.14
"""Radii, as a share of the side, below and above which an object is called small or large."""


@dataclass(frozen=True, slots=True, eq=False)
class Captioned:
    """A picture of `size` pixels and its kinds of objects; `masks[n]` are the pixels of kind n.

    The mask of a ring includes the hole: the object is what its outer border encloses.
    """

    image: UInt8[np.ndarray, "size size 3"]
    kinds: tuple[Kind, ...]
    masks: Bool[np.ndarray, "kinds size size"]

    def caption(self, rng: np.random.Generator, kind: int, drop: float = 0.35) -> str:
        """One wording of one of the kinds; `drop` see `describe`."""
        return describe(rng, self.kinds[kind], drop)


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """One object: its ideal pixels (with hole), its painted pixels and its centre in shares."""

    filled: Bool[np.ndarray, "size size"]
    painted: Bool[np.ndarray, "size size"]
    centre: tuple[float, float]
    radius: float


def captioned_picture(
    seed: int | tuple[int, ...], size: int = 96, most: int = MAX_KINDS
) -> Captioned:
    """Draw the picture that belongs to `seed`: the same seed gives the same picture.

    One to `most` kinds of objects, no two of the same tone and shape, on a textured ground and
    perhaps in an organ; tones are relative to what surrounds an object.

    Example:
        >>> captioned_picture(7, 64).image.shape
        (64, 64, 3)
    """
    rng = np.random.default_rng(seed)
    grey = 0.5 + rng.uniform(-0.12, 0.12) + rng.uniform(0.01, 0.05) * smooth_field(rng, size, 4)
    ground, organ = _organ(rng, size, grey)
    taken = np.zeros((size, size), bool)
    pairs = [(tone, shape) for tone in TONES for shape in SHAPES]
    chosen = rng.permutation(len(pairs))[: rng.integers(1, most + 1)]
    kinds, masks = [], []
    for tone, shape in (pairs[index] for index in chosen):
        count = 1 if kinds or rng.random() < 0.7 else int(rng.integers(2, 4))
        drawn = _group(rng, size, shape, count, taken)
        if not drawn:
            continue
        step = rng.uniform(0.16, 0.38) * (1 if tone == "bright" else -1)
        for one in drawn:
            grey[one.painted] += step * rng.uniform(0.85, 1.15)
        kinds.append(_kind(tone, shape, drawn, ground, organ))
        masks.append(np.any([one.filled for one in drawn], axis=0))
    if not kinds:  # nothing fitted, which a fixed centre always cures
        return captioned_picture((*np.atleast_1d(seed).tolist(), 1), size, most)
    return Captioned(_shown(rng, grey), tuple(kinds), np.stack(masks))


def _organ(
    rng: np.random.Generator, size: int, grey: Float32[np.ndarray, "size size"]
) -> tuple[str | None, Bool[np.ndarray, "size size"]]:
    """Perhaps paint a large body; returns its tone and its pixels."""
    inside = np.zeros((size, size), bool)
    if rng.random() < 0.4:
        return None, inside
    rows, cols = np.mgrid[:size, :size] / size - rng.uniform(0.4, 0.6, 2)[:, None, None]
    edge = 1 + 0.1 * smooth_field(rng, size, 4)
    inside = (rows / rng.uniform(0.3, 0.5)) ** 2 + (cols / rng.uniform(0.3, 0.5)) ** 2 < edge
    tone = "bright" if rng.random() < 0.5 else "dark"
    grey[inside] += rng.uniform(0.08, 0.16) * (1 if tone == "bright" else -1)
    return tone, inside


def _group(
    rng: np.random.Generator, size: int, shape: str, count: int, taken: Bool[np.ndarray, "s s"]
) -> list[_Drawn]:
    """As many of `count` equal objects as find room."""
    low, high = (0.07, 0.26) if count == 1 else (0.06, 0.11)
    radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if shape == "long":
        radius *= 1.5
    drawn: list[_Drawn] = []
    for _ in range(12 * count):
        one = _object(rng, size, shape, radius)
        area = one.filled.sum()
        if area < 12 or (taken & one.filled).any():
            continue
        taken |= one.filled
        # a gap of a few pixels keeps neighbours apart
        for axis in (0, 1):
            for step in (-2, 2):
                taken |= np.roll(one.filled, step, axis)
        drawn.append(one)
        if len(drawn) == count:
            break
    return drawn


def _object(rng: np.random.Generator, size: int, shape: str, radius: float) -> _Drawn:
    """One object at a random place, turned at random, inside of the picture."""
    margin = min(radius, 0.3)
    centre = rng.uniform(margin, 1 - margin, 2)
    down, right = np.mgrid[:size, :size].astype(np.float32) / size - centre[:, None, None]
    turn = rng.uniform(0, np.pi)
    u = np.cos(turn) * down + np.sin(turn) * right
    v = np.cos(turn) * right - np.sin(turn) * down
    if shape == "long":
        bend = rng.uniform(-0.35, 0.35)
        distance = np.hypot(u, (v - bend * (u * u / radius - radius / 3)) * rng.uniform(4, 6))
    else:
        distance = np.hypot(u, v * rng.uniform(1, 1.25))
    if shape == "irregular":
        angle = np.arctan2(u, v)
        spikes, phase = int(rng.integers(5, 9)), rng.uniform(0, 2 * np.pi)
        wave = np.sin(spikes * angle + phase) + 0.5 * np.sin((spikes - 3) * angle - phase)
        distance = distance / (0.8 + 0.25 * wave)
    filled = distance < radius
    painted = filled & (distance > radius * rng.uniform(0.5, 0.72)) if shape == "ring" else filled
    return _Drawn(filled, painted, (float(centre[0]), float(centre[1])), radius)


def _kind(
    tone: str, shape: str, drawn: list[_Drawn], ground: str | None, organ: np.ndarray
) -> Kind:
    """What may be said: a place only for a single object clearly off the middle."""
    radius = drawn[0].radius / (1.5 if shape == "long" else 1)
    single = len(drawn) == 1
    row, column = (
        (low if value < 0.42 else high if value > 0.58 else None) if single else None
        for value, low, high in zip(
            drawn[0].centre, ("upper", "left"), ("lower", "right"), strict=True
        )
    )
    within = all(organ[one.filled].mean() > 0.9 for one in drawn)
    return Kind(
        tone,
        shape,
        "small" if radius < SMALL else "large" if radius > LARGE else None,
        row,
        column,
        len(drawn),
        ground if within else None,
    )


def _shown(
    rng: np.random.Generator, grey: Float32[np.ndarray, "size size"]
) -> UInt8[np.ndarray, "size size 3"]:
    """Blur, uneven light, grain and perhaps a tint."""
    size = len(grey)
    picture = blur(grey.astype(np.float32), size / 96 * rng.uniform(0.3, 1.1))
    picture = picture * np.exp(rng.uniform(0, 0.2) * smooth_field(rng, size, 2))
    picture = picture + rng.uniform(0, 0.05) * smooth_field(rng, size, size // 3)
    picture = picture + rng.uniform(0, 0.03) * rng.standard_normal((size, size), np.float32)
    tint = rng.uniform(0.6, 1, 3) if rng.random() < 0.4 else np.ones(3)
    picture = np.clip(picture, 0, 1)[..., None] * tint
    return (255 * picture + 0.5).astype(np.uint8)
