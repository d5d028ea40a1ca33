"""Bilinear scaling of the planes of a slice, with half-pixel centres."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Planes = Float[np.ndarray, "c rows columns"]


def resized(planes: Planes, size: tuple[int, int]) -> Float[np.ndarray, "c h w"]:
    """Scale to `size`; averaged over the source pixels where an axis shrinks."""
    if planes.shape[1:] == size:
        return planes
    tensor = torch.from_numpy(np.ascontiguousarray(planes))[None]
    scaled = F.interpolate(
        tensor,
        size=size,
        mode="bilinear",
        align_corners=False,
        antialias=_shrinks(planes, size),
    )
    return scaled[0].numpy()


def enlarged(
    planes: Planes, size: tuple[int, int], keep: tuple[int, int] | None = None
) -> Float[np.ndarray, "c h w"]:
    """Scale to `size` and keep the first `keep` rows and columns.

    Equals `resized` up to rounding. What grows is computed as weighted sums of whole rows, and only
    where it is kept: for logits of a few masks that takes a fraction of the time.

    Example:
        >>> enlarged(np.array([[[0.0, 1.0]]], np.float32), (1, 4)).tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """
    height, width = keep or size
    if planes.shape[1:] == size or _shrinks(planes, size):
        return resized(planes, size)[:, :height, :width]
    # columns first, as rows of the turned planes, while there are few of them
    tensor = torch.from_numpy(planes)
    turned = _rows(tensor.transpose(1, 2), size[1], width)
    return _rows(turned.transpose(1, 2), size[0], height).numpy()


def _shrinks(planes: Planes, size: tuple[int, int]) -> bool:
    return size[0] < planes.shape[1] or size[1] < planes.shape[2]


def _rows(
    planes: Float[Tensor, "c rows columns"], count: int, kept: int
) -> Float[Tensor, "c kept columns"]:
    """The first `kept` of `count` rows in place of those there are."""
    planes, last = planes.contiguous(), planes.shape[1] - 1
    place = (torch.arange(kept, dtype=torch.float64) + 0.5) * ((last + 1) / count) - 0.5
    place = place.clamp(min=0)
    low = place.long().clamp(max=last)
    share = (place - low).to(planes.dtype)[:, None]
    return planes[:, low].lerp_(planes[:, (low + 1).clamp(max=last)], share)
