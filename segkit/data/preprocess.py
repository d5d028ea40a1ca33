"""From an image or a volume to the model's input and back: one description for training and use.

Training transforms and predictors share this module, so that what a model saw in training is what
it sees later. The description travels in the header of `adapter.safetensors` under "input".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from segkit.data.volume import Picture, Volume


@dataclass(frozen=True, slots=True)
class Intensity:
    """How grey values become [0, 1].

    "full": the range of the data type (uint8 and uint16 images); "percentile": `low` and `high`
    percent of the case; "window": fixed `windows` [(low, high), ...] in the units of the file.
    """

    kind: Literal["full", "percentile", "window"] = "percentile"
    low: float = 0.5
    high: float = 99.5
    windows: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the model expects.

    `size`: side of the square input in pixels; the slice is scaled so that it fits (aspect by
    spacing) and padded at the bottom and on the right. `channels`: "rgb" (colour images),
    "repeat" (grey three times), "neighbours" (slices k-1, k, k+1), "windows" (one window each).
    Volumes are first brought to `orientation` by exact axis swaps and flips; `slice_axis` is an
    array axis (k, j, i) there, None means the one with the largest spacing, ties go to k.
    """

    dimensions: Literal[2, 3] = 3
    size: int = 256
    channels: Literal["rgb", "repeat", "neighbours", "windows"] = "neighbours"
    intensity: Intensity = Intensity()
    orientation: str = "RAS"
    slice_axis: int | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, value: dict[str, object]) -> "InputSpec":
        """Rebuild and check what `to_dict` wrote."""
        raise NotImplementedError


class SliceView:
    """A volume (or a picture, as a single slice) seen as a stack of model inputs.

    The only place that maps between a file's grid and the model's pixels.
    """

    shape: tuple[int, int, int]  # (slices, rows, columns) after reorientation, before scaling
    spacing_mm: tuple[float, float, float]

    def __init__(self, source: Volume | Picture, spec: InputSpec) -> None:
        raise NotImplementedError

    def image(self, index: int) -> Float[np.ndarray, "3 size size"]:
        """Model input of slice `index`, float32 in [0, 1]; lazy, so memory stays bounded."""
        raise NotImplementedError

    def label(self, labels: np.ndarray, index: int) -> np.ndarray:
        """Slice `index` of a label array on the source grid, nearest, at the model size."""
        raise NotImplementedError

    def points_to_model(self, index: np.ndarray) -> np.ndarray:
        """Source voxel index (k, j, i), or (row, column) of a picture, to (slice, row, col) px."""
        raise NotImplementedError

    def logits_to_source(self, logits: Sequence[np.ndarray], index: Sequence[int]) -> np.ndarray:
        """Model logits `[c size' size']` of slices to logits on those slices' source pixels."""
        raise NotImplementedError

    def restore(self, stack: np.ndarray) -> np.ndarray:
        """A (slices, rows, columns) array back to the axis order and direction of the source."""
        raise NotImplementedError
