"""A label map under construction: regions with parents, painted one over the other."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from segkit.data.phantom.fields import smooth_field

MAX_REGIONS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A finished label map.

    `labels` holds region numbers 0 (background) to n, `parents[r]` the region around `r`,
    `kinds[r]` what it shows; `shade` is relief to add when rendering, `rim` the strength of drawn
    outlines, `view` the field of view.
    """

    labels: UInt8[np.ndarray, "size size"]
    parents: UInt8[np.ndarray, " regions"]
    kinds: tuple[str, ...]
    shade: Float32[np.ndarray, "size size"]
    rim: Float32[np.ndarray, "size size"]
    view: Bool[np.ndarray, "size size"]


class Scene:
    """Canvas of `size` pixels a side whose coordinate system is gently bent."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        rows, cols = np.mgrid[:size, :size].astype(np.float32)
        bend = self.bend = rng.uniform(0, 0.035) * size
        cells = int(rng.integers(2, 6))
        self.rows = rows + bend * smooth_field(rng, size, cells)
        self.cols = cols + bend * smooth_field(rng, size, cells)
        self.labels = np.zeros((size, size), np.uint8)
        self.shade = np.zeros((size, size), np.float32)
        self.rim = np.zeros((size, size), np.float32)
        self.view = np.ones((size, size), bool)
        self.parents = [0]
        self.kinds = ["background"]

    def add(
        self, mask: Bool[np.ndarray, "h w"], kind: str, parent: int = 0,
        window: tuple[slice, slice] | None = None,
    ) -> int | None:  # fmt: skip
        """Paint a region; returns its number, or None if it is empty or the numbers are used up."""
        if len(self.parents) > MAX_REGIONS or mask.sum() < 6:
            return None
        number = len(self.parents)
        self.parents.append(parent)
        self.kinds.append(kind)
        self.labels[window or (slice(None), slice(None))][mask] = number
        return number

    def finish(self) -> Layout:
        """Cut to the field of view and drop regions that were painted over."""
        self.labels[~self.view] = 0
        seen = np.bincount(self.labels.ravel(), minlength=len(self.parents)) > 0
        seen[0] = True
        number = np.cumsum(seen) - 1
        parents = []
        for region in np.flatnonzero(seen):
            parent = self.parents[region]
            while not seen[parent]:
                parent = self.parents[parent]
            parents.append(number[parent])
        return Layout(
            labels=number.astype(np.uint8)[self.labels],
            parents=np.array(parents, np.uint8),
            kinds=tuple(self.kinds[region] for region in np.flatnonzero(seen)),
            shade=self.shade,
            rim=self.rim,
            view=self.view,
        )
