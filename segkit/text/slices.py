"""Slices of an image as an encoder sees them, and the way back to voxels."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from segkit.data.preprocess import ChannelKind, InputSpec, Intensity, SliceView
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError

MAX_SIDE = 1024
"""Pixels; slices are read at their own resolution up to this, so that one resampling follows."""


def open_view(source: Volume | Picture, axis: int | None = None) -> SliceView:
    """See an image as slices for an encoder, which knows nothing else about it.

    Raises:
        InputError: There is no such axis.
    """
    is_byte = source.array.dtype == np.uint8
    intensity = Intensity("full") if is_byte else Intensity("percentile")
    if isinstance(source, Picture):
        if axis is not None:
            raise InputError(f"a picture has no slices, got axis {axis}")
        channels: ChannelKind = "rgb" if source.array.ndim == 3 else "repeat"
        size = min(max(source.size), MAX_SIDE)
        return SliceView(source, InputSpec(2, size, channels, intensity))
    slice_axis = None
    if axis is not None:
        if axis not in (0, 1, 2):
            raise InputError(f"axis must be 0 (k), 1 (j) or 2 (i), got {axis}")
        change, _ = source.geometry.reoriented("RAS")
        slice_axis = change.axes.index(axis)
    size = min(max(source.array.shape), MAX_SIDE)
    return SliceView(source, InputSpec(3, size, "repeat", intensity, slice_axis=slice_axis))


def slice_image(view: SliceView, index: int) -> Float[Tensor, "3 h w"]:
    """Pixels of a slice in [0, 1], without padding."""
    rows, columns = view.content_size
    return torch.from_numpy(np.ascontiguousarray(view.image(index)[:, :rows, :columns]))


def axis_of(view: SliceView) -> int:
    """Array axis of the source along which the slices of a view lie."""
    ends = to_source(view, np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    return int(np.abs(ends[1] - ends[0]).argmax())


def number_of(view: SliceView, index: int) -> int:
    """Index of a slice along the axis of the source; views may run the other way."""
    if isinstance(view.source, Picture):
        return index
    return round(float(to_source(view, np.array([[float(index), 0.0, 0.0]]))[0, axis_of(view)]))


def to_source(view: SliceView, places: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n axes"]:
    """Indices (slice, row, column) of the stack to voxel indices of the source."""
    scale = np.array([1.0, *np.divide(view.content_size, view.shape[1:])])
    return view.model_to_source((places + 0.5) * scale - 0.5)


def evenly(count: int, most: int | None) -> list[int]:
    """At most so many numbers from 0 to `count` - 1."""
    if most is None or count <= most:
        return list(range(count))
    return sorted({round(value) for value in np.linspace(0, count - 1, most)})


def numbered(view: SliceView, slices: tuple[int, int]) -> list[int]:
    """Slices of the view whose number in the source lies in [start, stop).

    Raises:
        InputError: There is none.
    """
    start, stop = slices
    chosen = [i for i in range(view.shape[0]) if start <= number_of(view, i) < stop]
    if not chosen:
        raise InputError(
            f"no slice lies in {start}:{stop}", fix=f"the volume has {view.shape[0]} slices"
        )
    return chosen
