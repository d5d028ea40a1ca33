"""Encoded slices of one image or volume: embeddings cached within a byte budget."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float

from segkit.data.preprocess import SliceView
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, MaskPrediction, Prompts


class EncodedSlices:
    """Encode slices of a `view` on demand; decode prompts on them.

    The least recently used embeddings are dropped once `cache_bytes` are in use, so memory does not
    grow with the volume. Safe to use from several threads.
    """

    def __init__(
        self, segmenter: Segmenter, view: SliceView, *, cache_bytes: int = 256 * 2**20
    ) -> None:
        self.segmenter, self.view, self.cache_bytes = segmenter, view, cache_bytes
        self._cache: OrderedDict[int, Features] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def features(self, index: int) -> Features:
        """Embedding of slice `index`, encoded at most once while it stays in the cache."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        features = self.encode([index])
        with self._lock:
            if index not in self._cache:
                self._cache[index] = features
                self._bytes += _n_bytes(features)
            while self._bytes > self.cache_bytes and len(self._cache) > 1:
                self._bytes -= _n_bytes(self._cache.popitem(last=False)[1])
        return features

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
    def mask_size(self) -> tuple[int, int]:
        """Rows and columns of mask logits: four cells per embedding cell, as in SAM's decoder."""
        side = 4 * (self.view.spec.size // self.segmenter.spec.out_stride)
        return (side, side)

    def classes(self, batch: int = 4) -> Iterator[tuple[int, Float[np.ndarray, "classes h w"]]]:
        """Class logits of every slice on the source pixels, slice by slice (automatic mode)."""
        count = self.view.shape[0]
        for start in range(0, count, batch):
            indices = range(start, min(start + batch, count))
            with torch.inference_mode():
                prediction = self.segmenter.decode(self.encode(indices), None)
            for index, logits in zip(indices, prediction.logits.float().cpu().numpy(), strict=True):
                yield index, self.view.logits_to_source([logits], [index])[0]


def _n_bytes(features: Features) -> int:
    return sum(level.numel() * level.element_size() for level in features.levels)
