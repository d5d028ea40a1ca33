"""Encoded slices of one image or volume: embeddings cached within a byte budget."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float
from typing_extensions import override

from segkit.data.preprocess import SliceView
from segkit.data.zoom import Window
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, MaskPrediction, Prompts

MOST_WINDOWS = 32
"""Windows that are kept beside the whole slices."""


class EncodedSlices:
    """Encode slices of a `view` on demand; decode prompts on them.

    The least recently used embeddings are dropped once `cache_bytes` are in use, so memory does not
    grow with the volume. Safe to use from several threads.

    Attributes:
        encode_s: Seconds that the last embedding took.
    """

    def __init__(
        self, segmenter: Segmenter, view: SliceView, *, cache_bytes: int = 256 * 2**20
    ) -> None:
        self.segmenter, self.view, self.cache_bytes = segmenter, view, cache_bytes
        self._cache: OrderedDict[int, Features] = OrderedDict()
        self._windows: OrderedDict[tuple[tuple[int, int], ...], EncodedSlices] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        self.encode_s = 0.0

    def holds(self, index: int) -> bool:
        """Whether the embedding of slice `index` is in the cache."""
        with self._lock:
            return index in self._cache

    def features(self, index: int) -> Features:
        """Embedding of slice `index`, encoded at most once while it stays in the cache."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        start = perf_counter()
        features = self.encode([index])
        self.encode_s = perf_counter() - start
        with self._lock:
            if index not in self._cache:
                self._cache[index] = features
                self._bytes += _n_bytes(features)
            while self._bytes > self.cache_bytes and len(self._cache) > 1:
                self._bytes -= _n_bytes(self._cache.popitem(last=False)[1])
        return features

    def cropped(self, window: Window) -> "EncodedSlices":
        """A window of the same slices, at the size of the view's zoom, with a cache of its own."""
        place = tuple((part.start, part.stop) for part in window)
        with self._lock:
            if place not in self._windows:
                zoom = self.view.spec.zoom
                view = self.view.cropped(window, self.view.spec.size if zoom is None else zoom.size)
                share = self.cache_bytes // MOST_WINDOWS
                self._windows[place] = EncodedSlices(self.segmenter, view, cache_bytes=share)
            self._windows.move_to_end(place)
            while len(self._windows) > MOST_WINDOWS:
                self._windows.popitem(last=False)
            return self._windows[place]

    def edited(self, edit: Callable[[Features], Features]) -> "EncodedSlices":
        """The same slices and cache, each embedding changed by `edit` before it is decoded."""
        return _EditedSlices(self, edit)

    @torch.inference_mode()
    def encode(self, indices: Sequence[int]) -> Features:
        """Encode several slices in one batch, past the cache."""
        images = np.stack([self.view.image(index) for index in indices])
        return self.segmenter.encode(torch.from_numpy(images).to(self.segmenter.device))

    @torch.inference_mode()
    def decode(self, index: int, prompts: Prompts, *, multimask: bool) -> MaskPrediction:
        """Masks of one object on slice `index`, one or several alternatives."""
        prompts = prompts.to(self.segmenter.device)
        return self.segmenter.decode(self.features(index), prompts, multimask=multimask)

    @property
    def has_fields(self) -> bool:
        """Whether masks are continuous, and can be had on the source pixels without resizing."""
        return self.segmenter.decoder.resolution_free

    @property
    def content_share(self) -> tuple[float, float]:
        """Share of the model input that the slice covers, per axis; the rest is padding."""
        height, width = self.view.content_size
        return height / self.view.spec.size, width / self.view.spec.size

    @torch.inference_mode()
    def on_source(self, index: int, prompts: Prompts) -> Float[np.ndarray, "rows columns"]:
        """Logits of one object on the pixels of slice `index`, straight from its field."""
        prediction = self.segmenter.decode(
            self.features(index),
            prompts.to(self.segmenter.device),
            size=self.view.shape[1:],
            area=self.content_share,
        )
        return prediction.logits[0, 0].float().cpu().numpy()

    @torch.inference_mode()
    def classify_on_source(
        self, indices: Sequence[int]
    ) -> Float[np.ndarray, "slices classes rows columns"]:
        """Class logits on the pixels of slices, straight from their fields (automatic mode)."""
        prediction = self.segmenter.decode(
            self.encode(indices), None, size=self.view.shape[1:], area=self.content_share
        )
        return prediction.logits.float().cpu().numpy()

    @property
    def mask_size(self) -> tuple[int, int]:
        """Rows and columns of mask logits: four cells per embedding cell, as in SAM's decoder."""
        side = 4 * (self.view.spec.size // self.segmenter.spec.out_stride)
        return (side, side)

    @torch.inference_mode()
    def classify(
        self, indices: Sequence[int], *, mirror: bool = False
    ) -> Float[np.ndarray, "slices classes rows cols"]:
        """Class logits of slices at the decoder's resolution (automatic mode).

        `mirror` averages them over both flips of the slice and their combination.
        """
        images = np.stack([self.view.image(index) for index in indices])
        batch = torch.from_numpy(images).to(self.segmenter.device)
        total: torch.Tensor | None = None
        flips: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3)) if mirror else ((),)
        for dims in flips:
            features = self.segmenter.encode(batch.flip(dims))
            logits = self.segmenter.decode(features, None).logits.flip(dims)
            total = logits if total is None else total + logits
        assert total is not None
        return (total / len(flips)).float().cpu().numpy()


class _EditedSlices(EncodedSlices):
    def __init__(self, slices: EncodedSlices, edit: Callable[[Features], Features]) -> None:
        super().__init__(slices.segmenter, slices.view)
        self._slices, self._edit = slices, edit

    @override
    def features(self, index: int) -> Features:
        return self._edit(self._slices.features(index))

    @override
    def cropped(self, window: Window) -> EncodedSlices:
        return self._slices.cropped(window).edited(self._edit)


def _n_bytes(features: Features) -> int:
    return sum(level.numel() * level.element_size() for level in features.levels)
