"""A volume as models of blocks see it: oriented, at their spacing, in [0, 1], read block by block.

Positions are model voxels (k, j, i) on the resampled grid, integers at voxel centres, unless a
docstring says edges. The resampled grid has the extent of the volume: voxel edges meet at its ends.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from segkit.data.intensity import to_unit
from segkit.data.preprocess import InputSpec, SliceView
from segkit.data.volume import Volume
from segkit.geometry import Triple

Positions = Sequence[Float[np.ndarray, " n"]]
"""Along each axis, where to sample; voxel centres at integers."""


class BlockView:
    """Blocks of a volume at the spacing of the model; nothing is held but the source.

    Attributes:
        source: The volume.
        shape: Model voxels (k, j, i) of the whole volume after orientation and resampling.
        spacing_mm: Distances between them; the wanted ones up to rounding of `shape`.

    Example:
        >>> from segkit.geometry import Geometry
        >>> volume = Volume(np.ones((4, 8, 8)), Geometry.from_spacing((4, 8, 8), (3.0, 1.0, 1.0)))
        >>> spec = InputSpec(channels="repeat", patch=(8, 8, 8), spacing_mm=(1.5, 1.5, 1.5))
        >>> view = BlockView(volume, spec)
        >>> view.shape, tuple(view.block((0, 0, 0), (8, 8, 8), (8, 8, 8)).shape)
        ((8, 5, 5), (1, 8, 8, 8))

    Raises:
        InputError: As `SliceView`.
    """

    def __init__(self, source: Volume, spec: InputSpec) -> None:
        self.source, self.spec = source, spec
        # the intensities and the orientation of slices along k
        plain = replace(spec, patch=None, spacing_mm=None, slice_axis=0)
        self._slices = SliceView(source, plain)
        self._stack = self._slices.stack(source.array)
        steps = self._slices.spacing_mm
        wanted = spec.spacing_mm or steps
        counts = [
            max(1, round(n * step / new))
            for n, step, new in zip(self.oriented_shape, steps, wanted, strict=True)
        ]
        self.shape: Triple = (counts[0], counts[1], counts[2])
        spacing = [
            step * n / new for n, step, new in zip(self.oriented_shape, steps, counts, strict=True)
        ]
        self.spacing_mm = (spacing[0], spacing[1], spacing[2])

    @property
    def oriented_shape(self) -> Triple:
        """Voxels of the file in the orientation of the model, before resampling."""
        return self._slices.shape

    @property
    def scale(self) -> Float[np.ndarray, "3"]:
        """Model voxels per voxel of the file along each axis."""
        return np.divide(self.shape, self.oriented_shape)

    def block(
        self, first: Sequence[float], last: Sequence[float], size: Triple
    ) -> Float[Tensor, "channels d h w"]:
        """The box between two edges (model voxels from the start of the volume) in `size` voxels.

        Linear; averaged over the voxels of the file where the block is coarser. What lies outside
        the volume is 0. One channel, or three for three intensity windows.
        """
        steps = np.subtract(last, first) / size
        scales = steps / self.scale
        places = [
            (edge + (np.arange(count) + 0.5) * step) / factor - 0.5
            for edge, count, step, factor in zip(first, size, steps, self.scale, strict=True)
        ]
        region, offset = self._region(places, scales)
        channels = [to_unit(region, span) for span in self._slices.ranges]
        near = [place - start for place, start in zip(places, offset, strict=True)]
        sampled = sample(torch.from_numpy(np.stack(channels)), near, scales)
        for axis, (place, count) in enumerate(zip(places, self.oriented_shape, strict=True)):
            is_outside = torch.from_numpy((place < -0.5) | (place > count - 0.5))
            sampled.movedim(1 + axis, 0)[is_outside] = 0
        return sampled

    def points_to_model(
        self, index: Float[np.ndarray, "points 3"]
    ) -> Float[np.ndarray, "points 3"]:
        """Voxel indices of the source array to model voxels."""
        oriented = stack_points(self._slices, index)
        return (oriented + 0.5) * self.scale - 0.5

    def oriented_to_source(
        self, index: Float[np.ndarray, "points 3"]
    ) -> Float[np.ndarray, "points 3"]:
        """Voxel indices in the orientation of the model to those of the source array."""
        factor = np.array([1.0, *np.divide(self._slices.content_size, self._slices.shape[1:])])
        return self._slices.model_to_source((np.asarray(index) + 0.5) * factor - 0.5)

    def stack(self, array: Shaped[np.ndarray, "k j i"]) -> Shaped[np.ndarray, "d h w"]:
        """An array of the source in the orientation of the model; a view."""
        return self._slices.stack(array)

    def restore(self, array: Shaped[np.ndarray, "d h w"]) -> Shaped[np.ndarray, "k j i"]:
        """Inverse of `stack`."""
        return self._slices.restore(array)

    def _region(
        self, places: Positions, scales: Float[np.ndarray, "3"]
    ) -> tuple[Float[np.ndarray, "d h w"], list[int]]:
        """Voxels of the file that a block needs, and where they start; at least one per axis."""
        cuts = []
        for place, scale, count in zip(places, scales, self.oriented_shape, strict=True):
            reach = max(scale, 1.0)
            low = min(max(int(np.floor(place[0] - reach)), 0), count - 1)
            high = min(max(int(np.ceil(place[-1] + reach)) + 1, low + 1), count)
            cuts.append(slice(low, high))
        region = np.array(self._stack[tuple(cuts)], dtype=np.float32, order="C")
        return region, [cut.start for cut in cuts]


def sample(
    array: Float[Tensor, "channels d h w"], places: Positions, scales: Sequence[float]
) -> Float[Tensor, "channels d2 h2 w2"]:
    """Values at `places` along each axis: linear, averaged where `scales` > 1 voxels are stepped.

    Triangle weights as in `torch.nn.functional.interpolate(antialias=True)`; beyond the outermost
    voxel centres the outermost voxel counts.
    """
    # axes that shrink most first: less to do for the others
    order = sorted(range(3), key=lambda axis: len(places[axis]) / array.shape[1 + axis])
    for axis in order:
        array = _sample_axis(array, 1 + axis, places[axis], max(float(scales[axis]), 1.0))
    return array


def stack_points(
    view: SliceView, index: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, "points 3"]:
    """Voxel indices of the source to (slice, row, column) of a stack before scaling."""
    factor = np.array([1.0, *np.divide(view.content_size, view.shape[1:])])
    return (view.points_to_model(index) + 0.5) / factor - 0.5


def _sample_axis(array: Tensor, axis: int, place: Float[np.ndarray, " n"], reach: float) -> Tensor:
    count = array.shape[axis]
    if len(place) == count and reach == 1 and np.allclose(place, np.arange(count)):
        return array
    place = place.clip(0, count - 1)
    first = np.floor(place - reach).astype(int) + 1
    taps = first[:, None] + np.arange(int(np.ceil(2 * reach)))
    weights = np.maximum(1 - np.abs(taps - place[:, None]) / reach, 0)
    weights *= (taps >= 0) & (taps < count)
    weights /= weights.sum(axis=1, keepdims=True)
    taps = taps.clip(0, count - 1)
    shape = [1] * array.ndim
    shape[axis] = len(place)
    total: Tensor | None = None
    for tap, weight in zip(taps.T, weights.T.astype(np.float32), strict=True):
        chosen = array.index_select(axis, torch.from_numpy(np.ascontiguousarray(tap)))
        part = chosen * torch.from_numpy(weight.copy()).reshape(shape)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total
