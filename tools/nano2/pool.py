"""Generated clips with encoded frames, kept and replaced one after the other."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from segkit.data.phantom.clip import PhantomClip, phantom_clip
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Grid
from tools.nano2.pictures import CELL

SMALLEST, LARGEST = 0.006, 0.5  # share of the first frame


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A clip as the memory sees it: features of each frame, and its targets.

    `levels` are those of `Features`, in half precision, `[t c h w]`; `masks` are in pixels,
    `shares` the covered share of each mask pixel.
    """

    levels: tuple[Tensor, ...]
    masks: Bool[np.ndarray, "objects t size size"]
    shares: Float[Tensor, "objects t h w"]
    size: int


def targets(
    clip: PhantomClip, rng: np.random.Generator, count: int
) -> Bool[np.ndarray, "objects t size size"]:
    """Up to `count` targets that the first frame shows, those that move or change more often."""
    members, weights = [], []
    first = clip.picture(0)
    for one in first.targets():
        area = first.mask(one).mean()
        if SMALLEST <= area <= LARGEST:
            members.append(one)
            change = np.ptp(clip.mask(one).mean((1, 2))) / area
            weights.append((0.2 if clip.kinds[one[0]] == "cell" else 1.0) * (0.3 + min(change, 1)))
    if not members:
        return np.zeros((0, *clip.labels.shape), bool)
    chance = np.array(weights) / np.sum(weights)
    chosen = rng.choice(len(members), min(count, len(members)), replace=False, p=chance)
    return np.stack([clip.mask(members[index]) for index in chosen])


@torch.no_grad()
def encode_clip(
    segmenter: Segmenter, seed: tuple[int, ...], *, frames: int, size: int, objects: int
) -> Encoded:
    """Draw and encode the first clip after `seed` that shows a target."""
    for attempt in range(100):
        clip = phantom_clip((*seed, attempt), frames, size)
        masks = targets(clip, np.random.default_rng((*seed, attempt, 5)), objects)
        if len(masks):
            break
    images = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    levels = tuple(level.half() for level in segmenter.encode(images).levels)
    shares = F.avg_pool2d(torch.from_numpy(masks).float(), CELL)
    return Encoded(levels, masks, shares, size)


def frame_of(clips: list[Encoded], index: int) -> Features:
    """Features of frame `index` of several clips, as one batch."""
    levels = zip(*(clip.levels for clip in clips), strict=True)
    size = clips[0].size
    stacked = tuple(torch.stack([level[index] for level in same]).float() for same in levels)
    return Features(stacked, Grid((1, size, size)))


class Pool:
    """`count` clips; each step replaces one by a new one. Step and seed decide its content."""

    def __init__(self, segmenter: Segmenter, seed: int, step: int, count: int, **options: int):
        self.segmenter, self.seed, self.count, self.options = segmenter, seed, count, options
        newest = step + count
        numbers = range(newest - count, newest)
        self.clips = {number % count: self._make(number) for number in numbers}

    def renew(self, step: int) -> None:
        """Replace the oldest clip after `step` steps."""
        number = step + self.count - 1
        self.clips[number % self.count] = self._make(number)

    def draw(self, rng: np.random.Generator, count: int) -> list[Encoded]:
        """Some clips, none of them twice."""
        return [self.clips[int(slot)] for slot in rng.choice(self.count, count, replace=False)]

    def _make(self, number: int) -> Encoded:
        return encode_clip(self.segmenter, (self.seed, 31, number), **self.options)
