"""Label maps of automatic models: slice by slice, or in sliding windows of blocks."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from segkit.data.preprocess import SliceView
from segkit.predictors.blocks import EncodedBlocks, block_reader
from segkit.predictors.slices import EncodedSlices
from segkit.predictors.watch import Watch
from segkit.predictors.windows import SlidingWindow, mirrored, resampled

SLICES_PER_BATCH = 4

Labels = UInt8[np.ndarray, "..."]
Look = Callable[[SliceView, int, Float[np.ndarray, "classes rows cols"]], None]
"""Called with the number of a slice and the probability of each class on its source pixels."""


def label_slices(
    slices: EncodedSlices, *, mirror: bool, watch: Watch, look: Look | None = None
) -> Labels:
    """Classes of every slice; memory holds one batch of slices and the label map."""
    view = slices.view
    out = np.empty(view.shape, dtype=np.uint8)
    for index, one in slice_scores(slices, mirror=mirror, watch=watch):
        out[index] = classes_of(torch.from_numpy(one))
        if look is not None:
            look(view, index, _probabilities(one))
    return view.restore(out)


def slice_scores(
    slices: EncodedSlices, *, mirror: bool, watch: Watch
) -> Iterator[tuple[int, Float[np.ndarray, "classes rows cols"]]]:
    """Scores of every slice on the grid of the file, with its number."""
    view = slices.view
    count = view.shape[0]
    for start in range(0, count, SLICES_PER_BATCH):
        watch.step(start, count)
        indices = range(start, min(start + SLICES_PER_BATCH, count))
        if slices.has_fields and not mirror:
            scores = slices.classify_on_source(indices)
        else:
            scores = view.logits_to_source([*slices.classify(indices, mirror=mirror)], indices)
        yield from zip(indices, scores, strict=True)
    watch.step(count, count)


@torch.inference_mode()
def label_blocks(blocks: EncodedBlocks, *, overlap: float, mirror: bool, watch: Watch) -> Labels:
    """Classes of blended blocks; memory holds one slab of windows and the label map."""
    view = blocks.view
    out = np.empty(view.oriented_shape, dtype=np.uint8)
    for axis, index, scores in block_scores(blocks, overlap=overlap, mirror=mirror, watch=watch):
        np.moveaxis(out, axis, 0)[index] = classes_of(scores)
    return view.restore(out)


def block_scores(
    blocks: EncodedBlocks, *, overlap: float, mirror: bool, watch: Watch
) -> Iterator[tuple[int, int, Float[Tensor, "classes rows cols"]]]:
    """Scores of blended blocks, plane by plane: (axis, index, scores).

    They are brought back to the grid of the file before classes are compared, so that borders
    do not show the voxels of the model.
    """
    view = blocks.view
    windows = SlidingWindow(blocks.patch, overlap)
    classify = mirrored(blocks.classify) if mirror else blocks.classify
    slabs = windows.slabs(block_reader(view), view.shape, classify, watch)
    yield from resampled(slabs, view.shape, view.oriented_shape)


def classes_of(scores: Float[Tensor, "classes rows cols"]) -> UInt8[np.ndarray, "rows cols"]:
    """Values 1, 2, ... of the highest score, 0 where none is above that of the background, 0."""
    best, index = scores.max(dim=0)
    return torch.where(best > 0, index + 1, 0).to(torch.uint8).cpu().numpy()


def _probabilities(
    scores: Float[np.ndarray, "classes rows cols"],
) -> Float[np.ndarray, "classes rows cols"]:
    """Soft-max over the classes and the background, whose score is 0."""
    every = np.concatenate([np.zeros_like(scores[:1]), scores])
    shares = np.exp(every - every.max(axis=0))
    return (shares / shares.sum(axis=0))[1:]
