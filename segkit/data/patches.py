"""Blocks of volumes for training: where they are cut, how they change, how they are batched."""

from collections.abc import Sequence
from dataclasses import dataclass

import segkit.torchvision_compat  # noqa: F401

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandRotate90d,
    RandRotated,
    RandShiftIntensityd,
    RandSpatialCropd,
    RandZoomd,
)
from torch import Tensor

from segkit.data.cache import StackCache
from segkit.data.cases import Case
from segkit.data.sampling import Draw, derive_seed
from segkit.data.stacks import Stack, StackError
from segkit.data.transforms import plain_tensors, randomizables
from segkit.errors import InputError
from segkit.typing import Grid

_IMAGE, _MASK = "image", "mask"
_BOTH = (_IMAGE, _MASK)
Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """Which blocks are cut and how they are changed at random; values fit images in [0, 1].

    A block is centred on a labelled voxel with probability `positive` / (`positive` + `negative`),
    else anywhere. `per_case` blocks are cut of each case in an epoch. Blocks are cut `margin` times
    as large as the patch, changed, and cut to size, so that little enters from outside.

    `flip_axes` (k, j, i) are mirrored with probability 0.5, and quarter turns in the plane happen
    with `quarter_turns`; both are off, because scans have sides. `zoom` is a range of factors with
    `zoom_probability`, `rotate_degrees` the largest angle in the plane with `rotate_probability`,
    `shift` the largest change of all intensities with `shift_probability`, `gamma` a range of
    exponents with `gamma_probability`.
    """

    positive: float = 2.0
    negative: float = 1.0
    per_case: int = 1
    margin: float = 1.2
    flip_axes: Sequence[int] = ()
    quarter_turns: float = 0.0
    zoom: Sequence[float] = (0.85, 1.25)
    zoom_probability: float = 0.5
    rotate_degrees: float = 15.0
    rotate_probability: float = 0.3
    shift: float = 0.1
    shift_probability: float = 0.3
    gamma: Sequence[float] = (0.7, 1.5)
    gamma_probability: float = 0.15

    def __post_init__(self) -> None:
        if min(self.positive, self.negative) < 0 or self.positive + self.negative <= 0:
            raise InputError(
                f"positive and negative must be >= 0 and not both 0, got {self.positive}, "
                f"{self.negative}"
            )
        if self.per_case < 1 or self.margin < 1:
            raise InputError(
                f"per_case and margin must be >= 1, got {self.per_case}, {self.margin}"
            )
        if wrong := [axis for axis in self.flip_axes if axis not in (0, 1, 2)]:
            raise InputError(f"flip_axes must be some of 0 (k), 1 (j), 2 (i), got {wrong}")
        for name in ("zoom", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(f"{name} must be (low, high) with 0 < low <= high: {low}, {high}")
        for name in self.__slots__:
            is_share = name.endswith("probability") or name == "quarter_turns"
            if is_share and not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a volume, `image` three times the same channel or three windows."""

    image: Float[Tensor, "depth 3 h w"]
    mask: Int[Tensor, "depth h w"]
    case_id: str
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """Blocks of one size, slices folded into the batch axis of `image`, which is in [0, 1].

    `mask` holds class numbers. `grid` describes one block; its spacing is that of the first, as all
    cases are brought to one spacing. `slice_index` numbers the blocks of a case.
    """

    image: Float[Tensor, "slices 3 h w"]
    mask: Int[Tensor, "n depth h w"]
    case_id: tuple[str, ...]
    slice_index: Int[Tensor, " n"]
    grid: Grid

    def __post_init__(self) -> None:
        n, depth = self.mask.shape[:2]
        if len(self.image) != n * depth or len(self.case_id) != n:
            raise ValueError(
                f"{len(self.image)} slices and {len(self.case_id)} names for {n} blocks of {depth}"
            )

    def __len__(self) -> int:
        return len(self.case_id)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "BlockBatch":
        """Copy to a device."""
        return BlockBatch(
            self.image.to(device, non_blocking=non_blocking),
            self.mask.to(device, non_blocking=non_blocking),
            self.case_id,
            self.slice_index.to(device, non_blocking=non_blocking),
            self.grid,
        )

    def pin_memory(self) -> "BlockBatch":
        """Copy to page-locked memory, from which copies to a GPU can overlap with work."""
        image, mask = self.image.pin_memory(), self.mask.pin_memory()
        return BlockBatch(image, mask, self.case_id, self.slice_index, self.grid)


def collate_blocks(blocks: Sequence[Block]) -> BlockBatch:
    """Join blocks of one size.

    Raises:
        ValueError: There is none.
    """
    if not blocks:
        raise ValueError("a batch needs at least one block, got none")
    mask = torch.stack([block.mask for block in blocks])
    d, h, w = mask.shape[1:]
    return BlockBatch(
        torch.cat([block.image for block in blocks]),
        mask,
        tuple(block.case_id for block in blocks),
        torch.zeros(len(blocks), dtype=torch.long),
        Grid((d, h, w), blocks[0].spacing_mm),
    )


class BlockSamples:
    """Blocks of cases that were brought to the model's spacing, read from the cache.

    A `Draw` gives a random block of case index // per_case, decided by (seed, epoch, index) alone;
    a plain index gives the block in the middle of what is labelled, or of the volume.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        stacks: Sequence[Stack],
        cache: StackCache,
        patch: Triple,
        *,
        spec: BlockSpec | None = None,
        seed: int = 0,
    ) -> None:
        self.cases, self._stacks, self._cache = cases, list(stacks), cache
        self.patch, self.spec, self._seed = patch, spec, seed
        self._change = _changes(spec, patch) if spec else Compose([])
        self._random = np.random.RandomState(0)
        for transform in randomizables(self._change):
            transform.R = self._random

    def __len__(self) -> int:
        return len(self.cases) * (self.spec.per_case if self.spec else 1)

    def name(self, index: int) -> str:
        """Case that a block belongs to."""
        return self.cases[self._case(index)].id

    def load(self, key: Draw | int) -> Block:
        """Read one block.

        Raises:
            InputError: The cache is damaged and the case cannot be read again.
        """
        number = self._case(key.index if isinstance(key, Draw) else key)
        try:
            return self._block(number, key)
        except StackError as error:
            self._stacks[number] = self._cache.rebuild(self.cases[number], error)
            return self._block(number, key)

    def _case(self, index: int) -> int:
        return index // (self.spec.per_case if self.spec else 1)

    def _block(self, number: int, key: Draw | int) -> Block:
        stack = self._stacks[number]
        if isinstance(key, Draw) and self.spec:
            self._random.seed(derive_seed(self._seed, key.epoch, key.index))
            size = _larger(self.patch, self.spec.margin)
            image, mask = cut(stack, self._drawn_centre(stack, self.spec), size)
            with plain_tensors():
                data = self._change({_IMAGE: image, _MASK: mask[None].float()})
            image, mask = data[_IMAGE].clamp(0, 1), data[_MASK][0].round().long()
        else:
            image, mask = cut(stack, _middle(stack), self.patch)
        return Block(
            image.expand(3, -1, -1, -1).transpose(0, 1).contiguous(),
            mask,
            self.cases[number].id,
            stack.facts.spacing_mm,
        )

    def _drawn_centre(self, stack: Stack, spec: BlockSpec) -> Triple:
        """Voxel that the block lies around: labelled, or any."""
        is_positive = self._random.uniform() * (spec.positive + spec.negative) < spec.positive
        if is_positive and stack.foreground.any():
            share = stack.foreground / stack.foreground.sum()
            k = int(self._random.choice(len(share), p=share))
            inside = np.argwhere(stack.label(k) > 0)
            j, i = inside[self._random.randint(len(inside))]
            return k, int(j), int(i)
        k, j, i = (self._random.randint(side) for side in (len(stack), *stack.facts.content))
        return k, j, i


def cut(
    stack: Stack, centre: Triple, size: Triple
) -> tuple[Float[Tensor, "channels d h w"], Int[Tensor, "d h w"]]:
    """Block around a voxel; moved to stay inside where it fits, filled with 0 where it does not."""
    extent = (len(stack), *stack.facts.content)
    first = [
        min(max(middle - side // 2, 0), length - side) if side <= length else (length - side) // 2
        for middle, side, length in zip(centre, size, extent, strict=True)
    ]
    inside = [
        slice(max(start, 0), min(start + side, length))
        for start, side, length in zip(first, size, extent, strict=True)
    ]
    slices = range(inside[0].start, inside[0].stop)
    plane = (..., inside[1], inside[2])
    image = np.stack([stack.image(k)[plane] for k in slices], axis=1)
    mask = np.stack([stack.label(k)[plane] for k in slices])
    before = [kept.start - start for kept, start in zip(inside, first, strict=True)]
    widths = [
        width
        for kept, start, side in reversed(list(zip(inside, before, size, strict=True)))
        for width in (start, side - start - (kept.stop - kept.start))
    ]
    return F.pad(torch.from_numpy(image), widths), F.pad(torch.from_numpy(mask), widths)


def _middle(stack: Stack) -> Triple:
    """Middle of the box around the labels, or of the volume."""
    height, width = stack.facts.content
    slices = np.flatnonzero(stack.foreground)
    if not len(slices):
        return len(stack) // 2, height // 2, width // 2
    shadow = np.any([stack.label(int(k)) > 0 for k in slices], axis=0)
    rows, columns = (np.flatnonzero(shadow.any(axis=axis)) for axis in (1, 0))
    k, j, i = (int(marked[0] + marked[-1]) // 2 for marked in (slices, rows, columns))
    return k, j, i


def _larger(patch: Triple, margin: float) -> Triple:
    k, j, i = (int(np.ceil(side * margin)) for side in patch)
    return k, j, i


def _changes(spec: BlockSpec, patch: Triple) -> Compose:
    both = ("trilinear", "nearest")
    angle = float(np.deg2rad(spec.rotate_degrees))
    return Compose(
        [
            RandShiftIntensityd(_IMAGE, offsets=spec.shift, prob=spec.shift_probability),
            RandAdjustContrastd(
                _IMAGE, gamma=(spec.gamma[0], spec.gamma[1]), prob=spec.gamma_probability
            ),
            RandZoomd(
                _BOTH,
                prob=spec.zoom_probability,
                min_zoom=spec.zoom[0],
                max_zoom=spec.zoom[1],
                mode=both,
                padding_mode="constant",
            ),
            # the first of MONAI's angles turns in the plane of the first axis, depth
            RandRotated(
                _BOTH,
                prob=spec.rotate_probability,
                range_x=angle,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandSpatialCropd(_BOTH, roi_size=patch, random_size=False),
            *(RandFlipd(_BOTH, prob=0.5, spatial_axis=axis) for axis in spec.flip_axes),
            RandRotate90d(_BOTH, prob=spec.quarter_turns, spatial_axes=(1, 2)),
        ]
    )
