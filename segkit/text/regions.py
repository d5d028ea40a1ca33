"""From a saliency map to regions: split, components, the best few, a box and a point for each."""

from dataclasses import dataclass

import cc3d
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from skimage.filters import threshold_otsu
from torch import Tensor

from segkit.text.settings import RegionSettings

FLAT = 1e-6
"""A map whose range is smaller, relative to its largest value, says nothing about places."""

Corner = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One connected part of a map; `box` is half-open, (row, column).

    `peak` is the most salient pixel. `confidence` is how far the mean saliency inside is above the
    mean outside, as a share of the range of the map: 0 (no difference) to 1.
    """

    mask: Bool[np.ndarray, "rows cols"]
    box: tuple[Corner, Corner]
    peak: Corner
    confidence: float

    @property
    def share(self) -> float:
        """Part of the image that the region covers."""
        return float(self.mask.mean())


def spread(
    maps: Float[Tensor, "n rows cols"], size: tuple[int, int]
) -> Float[Tensor, "n height width"]:
    """Bring maps of patches to the pixels of an image, bilinear, and to the range [0, 1].

    A map without differences becomes zero.
    """
    full = F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    low, high = full.amin((1, 2), keepdim=True), full.amax((1, 2), keepdim=True)
    is_flat = high - low <= FLAT * high.abs()
    return torch.where(
        is_flat, torch.zeros_like(full), (full - low) / (high - low).clamp(min=1e-30)
    )


def find_regions(
    values: Float[np.ndarray, "rows cols"], settings: RegionSettings | None = None
) -> tuple[Region, ...]:
    """Most salient regions of a map in [0, 1], the best first; none in a flat map.

    Components touch over edges or corners.
    """
    settings = settings or RegionSettings()
    if not np.ptp(values):
        return ()
    level = settings.threshold
    if isinstance(level, str):
        # the split of least variance inside both parts: k-means with two clusters
        level = float(threshold_otsu(values))
    components = cc3d.connected_components(values > level, connectivity=8)
    found = []
    for number in range(1, int(components.max()) + 1):
        mask = components == number
        if mask.mean() >= settings.smallest:
            found.append(_describe(values, mask))

    def order(region: Region) -> tuple[float, float]:
        ranks = (region.confidence, region.share)
        return ranks if settings.rank == "confidence" else ranks[::-1]

    return tuple(sorted(found, key=order, reverse=True)[: settings.keep])


def _describe(
    values: Float[np.ndarray, "rows cols"], mask: Bool[np.ndarray, "rows cols"]
) -> Region:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = ((int(rows[0]), int(cols[0])), (int(rows[-1]) + 1, int(cols[-1]) + 1))
    peak = np.unravel_index(int(np.where(mask, values, -1).argmax()), mask.shape)
    outside = values[~mask].mean() if not mask.all() else 0.0
    confidence = float(np.clip(values[mask].mean() - outside, 0, 1))
    return Region(mask, box, (int(peak[0]), int(peak[1])), confidence)
