"""Sliding windows over a volume, reduced slab by slab.

Scores of all classes exist only for the rows that windows still reach, so memory does not grow with
the length of the volume, and labels need none of it (source of the usual form: MONAI's
`SlidingWindowInferer`, which keeps classes x volume).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from segkit.geometry import Triple
from segkit.predictors.watch import UNWATCHED, Watch

SIGMA = 0.125
"""Standard deviation of the blending weights as a share of the window's side."""
LEAST_WEIGHT = 1e-3
"""Corners of a window keep this weight, so that every voxel has a sum above zero."""

Box = tuple[slice, slice, slice]
Read = Callable[[Box], Float[Tensor, "channels d h w"]]
Classify = Callable[[Float[Tensor, "n channels d h w"]], Float[Tensor, "n classes d h w"]]


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Finished rows of a sweep along `axis`, from row `first`.

    `scores` are sums of weighted logits, `weights` the sums of the weights; both are overwritten
    when the next slab is asked for.
    """

    axis: int
    first: int
    scores: Float[Tensor, "classes d h w"]
    weights: Float[Tensor, "d h w"]


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """Windows of `patch` voxels (k, j, i) that overlap by a share of their side.

    `is_gaussian` blends with Gaussian weights, otherwise all voxels of a window count the same;
    `batch` windows are classified at once. A volume smaller than the patch is padded with zeros on
    both sides.

    Example:
        >>> windows = SlidingWindow((4, 4, 4), overlap=0.5)
        >>> volume = torch.rand(1, 8, 6, 5)
        >>> labels = windows.labels(volume, lambda patches: torch.cat([1 - patches, patches], 1))
        >>> bool((labels == (volume[0] > 0.5)).all())
        True

    Raises:
        ValueError: A side is below 1, the overlap not in [0, 1), or the batch below 1.
    """

    patch: Triple
    overlap: float = 0.5
    is_gaussian: bool = True
    batch: int = 1

    def __post_init__(self) -> None:
        if min(self.patch) < 1 or not 0 <= self.overlap < 1 or self.batch < 1:
            raise ValueError(
                f"patch sides and batch must be >= 1 and overlap in [0, 1), got {self.patch}, "
                f"{self.batch}, {self.overlap}"
            )

    def labels(
        self, volume: Float[Tensor, "channels d h w"], classify: Classify
    ) -> UInt8[Tensor, "d h w"]:
        """Class with the highest score of every voxel, at most 256 classes."""
        shape = (volume.shape[1], volume.shape[2], volume.shape[3])
        out = torch.empty(shape, dtype=torch.uint8)
        for slab in self.slabs(lambda box: volume[(slice(None), *box)], shape, classify):
            rows = out.movedim(slab.axis, 0)
            for number, scores in enumerate(slab.scores.movedim(1 + slab.axis, 0)):
                rows[slab.first + number] = scores.argmax(dim=0)
        return out

    def slabs(
        self, read: Read, shape: Triple, classify: Classify, watch: Watch = UNWATCHED
    ) -> Iterator[Slab]:
        """Sweep along the axis with most windows; weighted sums of rows that no window reaches.

        `read` returns voxels of a box inside `shape`; `classify` returns logits of all classes at
        the size of its input.
        """
        starts = [self._starts(size, side) for size, side in zip(shape, self.patch, strict=True)]
        axis = max(range(3), key=lambda a: shape[a] / self.patch[a])
        sums = _Sums(shape, self.patch, axis)
        weight = self._weight().movedim(axis, 0)
        ahead = [*starts[axis][1:], sums.padded[0]]
        others = list(itertools.product(*(starts[a] for a in range(3) if a != axis)))
        done, total = 0, math.prod(len(some) for some in starts)
        for row, stop in zip(starts[axis], ahead, strict=True):
            slab = sums.read(read, row)
            for chosen in _batches(others, self.batch):
                cut = torch.stack([slab[sums.window(place)] for place in chosen])
                logits = classify(cut.movedim(2, 2 + axis)).movedim(2 + axis, 2)
                for place, one in zip(chosen, logits, strict=True):
                    sums.add(one, weight, place)
                done += len(chosen)
                watch.step(done, total)
            yield from sums.finish(row, stop)

    def _starts(self, size: int, side: int) -> list[int]:
        """First voxels of the windows along an axis; the last window ends with the volume."""
        step = max(int(side * (1 - self.overlap)), 1)
        last = max(size - side, 0)
        return [*range(0, last, step), last]

    def _weight(self) -> Float[Tensor, "d h w"]:
        if not self.is_gaussian:
            return torch.ones(self.patch)
        weight = torch.ones(())
        for side in self.patch:
            away = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
            weight = weight[..., None] * torch.exp(away**2 / (-2 * (SIGMA * side) ** 2))
        return weight.clamp(min=max(float(weight.min()), LEAST_WEIGHT))


class _Sums:
    """Sums of scores over the rows that one window covers; axes with the sweep first."""

    def __init__(self, shape: Triple, patch: Triple, axis: int) -> None:
        self.axis = axis
        self._order = [axis, *(a for a in range(3) if a != axis)]
        self.shape = [shape[a] for a in self._order]
        self.patch = [patch[a] for a in self._order]
        self.padded = [max(n, side) for n, side in zip(self.shape, self.patch, strict=True)]
        self.before = [
            max(side - n, 0) // 2 for n, side in zip(self.shape, self.patch, strict=True)
        ]
        self._scores: Tensor | None = None
        self._weights = torch.zeros(self.patch[0], *self.padded[1:])

    def read(self, read: Read, row: int) -> Float[Tensor, "channels rows h w"]:
        """Voxels of one row of windows, padded to its size."""
        box = [slice(0, self.shape[self._order.index(a)]) for a in range(3)]
        box[self.axis] = slice(row, min(row + self.patch[0], self.shape[0]))
        slab = read((box[0], box[1], box[2])).movedim(1 + self.axis, 1)
        after = [
            full - before - size
            for full, before, size in zip(
                [self.patch[0], *self.padded[1:]], self.before, slab.shape[1:], strict=True
            )
        ]
        if not any(self.before) and not any(after):
            return slab
        sides = itertools.chain.from_iterable(
            zip(reversed(self.before), reversed(after), strict=True)
        )
        return F.pad(slab, tuple(sides))

    def window(self, place: Sequence[int]) -> tuple[slice, ...]:
        """Index of a window in a slab, all channels or classes."""
        sides = zip((0, *place), self.patch, strict=True)
        return (slice(None), *(slice(start, start + side) for start, side in sides))

    def add(
        self,
        logits: Float[Tensor, "classes d h w"],
        weight: Float[Tensor, "d h w"],
        place: Sequence[int],
    ) -> None:
        """Add the logits of one window."""
        if self._scores is None:
            size = (len(logits), self.patch[0], *self.padded[1:])
            self._scores = torch.zeros(size, device=logits.device)
            self._weights = self._weights.to(logits.device)
        weight = weight.to(logits.device)
        window = self.window(place)
        # one pass without a product in between
        self._scores[window].addcmul_(logits.float(), weight)
        self._weights[window[1:]] += weight

    def finish(self, row: int, stop: int) -> Iterator[Slab]:
        """Hand out the rows before `stop` and move the others to the front."""
        assert self._scores is not None
        inside = [
            slice(before, before + size)
            for before, size in zip(self.before, self.shape, strict=True)
        ]
        done = min(stop - row, self.patch[0])
        inside[0] = slice(inside[0].start, min(done, inside[0].start + self.shape[0]))
        yield Slab(
            self.axis,
            row,
            self._scores[(slice(None), *inside)].movedim(1, 1 + self.axis),
            self._weights[tuple(inside)].movedim(0, self.axis),
        )
        for sums in (self._scores.movedim(1, 0), self._weights):
            # in pieces that do not overlap with where they go
            for start in range(done, self.patch[0], done):
                piece = sums[start : start + done]
                sums[start - done : start - done + len(piece)] = piece
            sums[max(self.patch[0] - done, 0) :] = 0


def resampled(
    slabs: Iterator[Slab], shape: Triple, size: Triple
) -> Iterator[tuple[int, int, Float[Tensor, "classes rows cols"]]]:
    """Mean scores on a grid of `size` with the same extent, plane by plane: (axis, index, scores).

    Equal to `F.interpolate(mode="trilinear", align_corners=False)` of the whole volume; memory
    holds one slab and one plane. Weights matter here: sums of different weight cannot be mixed.
    """
    index, below = 0, None
    for slab in slabs:
        axis = slab.axis
        count, wanted = shape[axis], size[axis]
        plane = [size[a] for a in range(3) if a != axis]
        rows = slab.scores.div_(slab.weights).movedim(1 + axis, 1)
        last = slab.first + rows.shape[1] - 1
        while index < wanted:
            at = min(max((index + 0.5) * count / wanted - 0.5, 0.0), count - 1.0)
            low = math.floor(at)
            high = min(low + 1, count - 1)
            if high > last:
                break
            lower = below if low < slab.first else rows[:, low - slab.first]
            assert lower is not None
            scores = lower
            if at > low:
                scores = torch.lerp(lower, rows[:, high - slab.first], at - low)
            if list(scores.shape[1:]) != plane:
                scores = F.interpolate(
                    scores[None], tuple(plane), mode="bilinear", align_corners=False
                )[0]
            yield axis, index, scores
            index += 1
        below = rows[:, -1].clone()


def mirrored(classify: Classify, axes: Sequence[int] = (0, 1, 2)) -> Classify:
    """Average logits over all flips along `axes` (0 k, 1 j, 2 i): test-time mirroring."""
    flips = [
        [2 + axis for axis in some]
        for count in range(len(axes) + 1)
        for some in itertools.combinations(axes, count)
    ]

    def average(patches: Tensor) -> Tensor:
        total = classify(patches)
        for dims in flips[1:]:
            total = total + classify(patches.flip(dims)).flip(dims)
        return total / len(flips)

    return average


def _batches(items: list[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
