"""Which objects are trained on, and the prompts that point at them."""

from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from segkit.data.phantom.picture import PhantomPicture, phantom_picture

LARGEST = 0.65


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images with several objects each; object o lies on image `owner[o]`."""

    images: UInt8[np.ndarray, "n size size 3"]
    masks: Bool[np.ndarray, "objects size size"]
    owner: Int64[np.ndarray, " objects"]


def draw_batch(
    seed: tuple[int, ...], images: int, objects: int, smallest: float, size: int = 256
) -> Batch:
    """Pictures from `seed`, each with `objects` targets of at least `smallest` of its area."""
    pictures = [phantom_picture((*seed, index), size) for index in range(images)]
    rng = np.random.default_rng((*seed, images))
    masks = [mask for item in pictures for mask in _choose(rng, item, objects, smallest)]
    return Batch(
        np.stack([item.image for item in pictures]),
        np.stack(masks),
        np.repeat(np.arange(images), objects),
    )


def _choose(
    rng: np.random.Generator, picture: PhantomPicture, count: int, smallest: float
) -> list[Bool[np.ndarray, "size size"]]:
    """Choose `count` targets, cells less often; the largest one where none is large enough."""
    pixels = np.bincount(picture.labels.ravel(), minlength=len(picture.parents))
    targets = picture.targets()
    if not targets:
        return [picture.labels == 0] * count
    area = np.array([pixels[list(members)].sum() for members in targets]) / picture.labels.size
    weight = np.array([0.25 if picture.kinds[members[0]] == "cell" else 1.0 for members in targets])
    weight = weight * np.minimum(area / 0.01, 1) ** 0.25
    weight = weight * ((area >= smallest) & (area <= LARGEST))
    if not weight.any():
        weight[np.argmin(np.abs(np.log(area / 0.1)))] = 1
    few = np.count_nonzero(weight) < count
    chosen = rng.choice(len(targets), count, replace=few, p=weight / weight.sum())
    return [picture.mask(targets[index]) for index in chosen]


def deepest(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Row and column of the pixel farthest from the border of the mask."""
    depth = edt.edt(np.ascontiguousarray(mask, dtype=np.uint8), black_border=True, parallel=1)
    row, col = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(row), int(col)


def first_click(
    rng: np.random.Generator, mask: Bool[np.ndarray, "h w"], central: bool
) -> tuple[float, float]:
    """XY of a click on the object: its deepest pixel or any of its pixels."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if central:
        row, col = deepest(mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])
        return float(col + cols[0]), float(row + rows[0])
    pixels = np.flatnonzero(mask)
    row, col = divmod(int(rng.choice(pixels)), mask.shape[1])
    return float(col), float(row)


def box_of(
    rng: np.random.Generator, mask: Bool[np.ndarray, "h w"], jitter: float
) -> Float32[np.ndarray, "2 2"]:
    """First and last corner (XY, inclusive), moved by up to 20 pixels, `jitter` of the side."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([[cols[0], rows[0]], [cols[-1], rows[-1]]], np.float32)
    if jitter:
        move = rng.normal(0, jitter, (2, 2)) * (box[1] - box[0] + 1)
        box = np.clip(box + np.clip(move, -20, 20), 0, mask.shape[0] - 1)
    return box.astype(np.float32)


def next_click(
    rng: np.random.Generator,
    guess: Bool[np.ndarray, "h w"],
    truth: Bool[np.ndarray, "h w"],
    central: bool,
) -> tuple[float, float, int]:
    """Column, row and label of a correcting click; on the object where nothing is wrong."""
    wrong = guess != truth
    if not wrong.any():
        wrong = truth if truth.any() else ~truth
    if central:
        # two labels: a border between missing and surplus pixels counts as a border
        depth = edt.edt(wrong * (1 + truth.astype(np.uint8)), black_border=True, parallel=1)
        row, col = np.unravel_index(int(depth.argmax()), wrong.shape)
    else:
        row, col = divmod(int(rng.choice(np.flatnonzero(wrong))), wrong.shape[1])
    return float(col), float(row), int(truth[row, col])
