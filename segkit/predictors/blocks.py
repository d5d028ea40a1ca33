"""Encoded blocks of one volume: embeddings cached within a byte budget."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from segkit.data.block_view import BlockView
from segkit.geometry import Triple
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Grid, MaskPrediction, Prompts

Edge = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """Box between the edges `first` and `last`, cut into `size` voxels.

    Edges are counted in model voxels from the start of the volume, axes (k, j, i); positions of
    points count from the centre of the first model voxel.
    """

    first: Edge
    last: Edge
    size: Triple

    @property
    def steps(self) -> Float[np.ndarray, "3"]:
        """Model voxels per voxel of the box along each axis."""
        return np.subtract(self.last, self.first) / self.size

    def centres(self) -> list[Float[np.ndarray, " n"]]:
        """Where the centres of the voxels lie along each axis, counted as edges are."""
        return [
            first + (np.arange(count) + 0.5) * step
            for first, count, step in zip(self.first, self.size, self.steps, strict=True)
        ]

    def holds(self, points: Float[np.ndarray, "n 3"], margin: float = 0.0) -> bool:
        """Whether all points lie inside, `margin` model voxels away from the faces."""
        edges = np.asarray(points) + 0.5
        return bool(
            (edges >= np.add(self.first, margin)).all()
            and (edges < np.subtract(self.last, margin)).all()
        )

    def covers(self, other: "Frame") -> bool:
        """Whether the other box lies within this one."""
        starts = np.less_equal(self.first, other.first).all()
        return bool(starts and np.greater_equal(self.last, other.last).all())

    def to_block(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Model voxels to voxels of the box."""
        return (np.asarray(points) + 0.5 - self.first) / self.steps - 0.5


class EncodedBlocks:
    """Encode blocks of a `view` on demand; decode prompts in them.

    The least recently used embeddings are dropped once `cache_bytes` are in use. Safe to use from
    several threads.
    """

    def __init__(
        self, segmenter: Segmenter, view: BlockView, patch: Triple, *, cache_bytes: int = 2**28
    ) -> None:
        self.segmenter, self.view, self.patch = segmenter, view, patch
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[Frame, Features] = OrderedDict()
        self._lock = Lock()

    def features(self, frame: Frame) -> Features:
        """Embedding of a block, encoded at most once while it stays in the cache."""
        with self._lock:
            if frame in self._cache:
                self._cache.move_to_end(frame)
                return self._cache[frame]
        features = self.encode(self.view.block(frame.first, frame.last, frame.size)[None])
        with self._lock:
            self._cache[frame] = features
            while len(self._cache) > 1 and sum(map(_n_bytes, self._cache.values())) > (
                self.cache_bytes
            ):
                self._cache.popitem(last=False)
        return features

    def edited(self, edit: Callable[[Features], Features]) -> "EncodedBlocks":
        """The same blocks and cache, each embedding changed by `edit` before it is decoded."""
        return _EditedBlocks(self, edit)

    @torch.inference_mode()
    def encode(self, blocks: Float[Tensor, "n channels d h w"]) -> Features:
        """Encode several blocks of equal size in one batch, past the cache."""
        depth, height, width = blocks.shape[2:]
        folded = blocks.expand(-1, 3, -1, -1, -1).transpose(1, 2).flatten(0, 1)
        grid = Grid((depth, height, width), self.view.spacing_mm)
        return self.segmenter.encode(folded.to(self.segmenter.device), grid)

    @torch.inference_mode()
    def decode(self, frame: Frame, prompts: Prompts, *, multimask: bool) -> MaskPrediction:
        """Masks of one object in a block, at the size of the block."""
        prompts = prompts.to(self.segmenter.device)
        found = self.segmenter.decode(
            self.features(frame), prompts, multimask=multimask, size=frame.size
        )
        return MaskPrediction(_fitted(found.logits, frame.size), found.iou)

    @torch.inference_mode()
    def classify(self, blocks: Float[Tensor, "n channels d h w"]) -> Float[Tensor, "n c d h w"]:
        """Class logits of blocks (automatic mode)."""
        size = (blocks.shape[2], blocks.shape[3], blocks.shape[4])
        found = self.segmenter.decode(self.encode(blocks), None, size=size)
        return _fitted(found.logits, size)


class _EditedBlocks(EncodedBlocks):
    def __init__(self, blocks: EncodedBlocks, edit: Callable[[Features], Features]) -> None:
        super().__init__(blocks.segmenter, blocks.view, blocks.patch)
        self._blocks, self._edit = blocks, edit

    @override
    def features(self, frame: Frame) -> Features:
        return self._edit(self._blocks.features(frame))


def block_reader(view: BlockView) -> Callable[[tuple[slice, slice, slice]], Tensor]:
    """What a sliding window reads: model voxels of a box inside the volume."""

    def read(box: tuple[slice, slice, slice]) -> Tensor:
        k, j, i = box
        size = (k.stop - k.start, j.stop - j.start, i.stop - i.start)
        return view.block((k.start, j.start, i.start), (k.stop, j.stop, i.stop), size)

    return read


def _fitted(logits: Float[Tensor, "n c d h w"], size: Triple) -> Float[Tensor, "n c d2 h2 w2"]:
    if tuple(logits.shape[2:]) == size:
        return logits
    return F.interpolate(logits.float(), size, mode="trilinear", align_corners=False)


def _n_bytes(features: Features) -> int:
    return sum(level.numel() * level.element_size() for level in features.levels)
