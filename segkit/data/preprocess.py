"""From an image or a volume to the model's input and back: one description for training and use.

Training transforms and predictors share this module, so that what a model saw in training is what
it sees later. The description travels in the header of `adapter.safetensors` under "input".
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped

from segkit.data.intensity import Intensity as Intensity
from segkit.data.intensity import check_keys, to_unit
from segkit.data.resize import enlarged, resized
from segkit.data.volume import Picture, Volume
from segkit.data.voxels import LUMINANCE
from segkit.data.zoom import Window, Zoom
from segkit.errors import InputError
from segkit.geometry import Geometry

ChannelKind = Literal["rgb", "repeat", "neighbours", "windows"]

TIE = 1e-3  # spacings closer than this (relative) count as equal when the slice axis is chosen


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the model expects.

    `size`: side of the square input in pixels; the slice is scaled so that it fits (aspect by
    spacing) and padded at the bottom and on the right. `channels`: "rgb" (colour images),
    "repeat" (grey three times), "neighbours" (slices k-1, k, k+1), "windows" (one window each).
    Volumes are first brought to `orientation` (letters for i, j, k) by exact axis swaps and flips;
    `slice_axis` is an array axis (k, j, i) there, None means the one with the largest spacing, ties
    go to k.

    `patch` makes the model volumetric: it sees blocks of so many voxels (k, j, i) after the volume
    was resampled to `spacing_mm` (k, j, i; None keeps the spacing of the file). `size` and
    `slice_axis` then mean nothing.

    With `zoom` the model sees a window around each prompted object, at a size of its own, and the
    whole slice only to find an object that was clicked on.
    """

    dimensions: Literal[2, 3] = 3
    size: int = 256
    channels: ChannelKind = "neighbours"
    intensity: Intensity = field(default_factory=Intensity)
    orientation: str = "RAS"
    slice_axis: int | None = None
    patch: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    zoom: Zoom | None = None

    def __post_init__(self) -> None:
        self._check_patch()
        if self.dimensions not in (2, 3) or self.size < 1:
            raise InputError(
                f"dimensions must be 2 or 3 and size >= 1, got {self.dimensions}, {self.size}"
            )
        if self.channels not in get_args(ChannelKind):
            raise InputError(f"channels {self.channels!r} is not one of {get_args(ChannelKind)}")
        if self.slice_axis not in (None, 0, 1, 2):
            raise InputError(f"slice_axis must be 0 (k), 1 (j), 2 (i) or null: {self.slice_axis}")
        wanted = 3 if self.channels == "windows" else 1
        if self.intensity.kind == "window" and len(self.intensity.windows) != wanted:
            raise InputError(
                f"channels {self.channels!r} need {wanted} intensity window(s), got "
                f"{len(self.intensity.windows)}"
            )
        if self.channels == "windows" and self.intensity.kind != "window":
            raise InputError("channels 'windows' need intensity 'window' with three windows")
        try:
            Geometry.from_spacing((1, 1, 1), (1.0, 1.0, 1.0)).reoriented(self.orientation)
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def is_volumetric(self) -> bool:
        """Whether the model sees blocks of a volume instead of slices."""
        return self.patch is not None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; `spacing_mm` null says that spacing is the file's own."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        lists = {name: values[name] and list(values[name]) for name in ("patch", "spacing_mm")}
        zoom = None if self.zoom is None else self.zoom.to_dict()
        return values | {"intensity": self.intensity.to_dict(), "zoom": zoom} | lists

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "InputSpec":
        """Rebuild and check what `to_dict` wrote.

        Raises:
            InputError: An entry is unknown, or its value is not allowed.
        """
        check_keys(cls, value, "input")
        parts = {
            "intensity": Intensity.from_dict(value.get("intensity", {})),
            "zoom": Zoom.from_dict(value.get("zoom")),
        }
        return cls(**{**value, **parts})

    def _check_patch(self) -> None:
        """Turn lists, as JSON and YAML give them, into tuples and refuse what is no block."""
        for name in ("patch", "spacing_mm"):
            if (value := getattr(self, name)) is None:
                continue
            if len(value) != 3 or not all(0 < side < np.inf for side in value):
                raise InputError(f"input {name} must be three numbers > 0 (k, j, i), got {value}")
            object.__setattr__(self, name, tuple(value))
        if self.patch is None and self.spacing_mm is not None:
            raise InputError(f"input spacing_mm must be null without a patch: {self.spacing_mm}")
        if self.patch is None:
            return
        if any(side != int(side) for side in self.patch):
            raise InputError(f"input patch must be whole numbers of voxels, got {self.patch}")
        if self.dimensions != 3 or self.channels not in ("repeat", "windows"):
            raise InputError(
                f"a patch {self.patch} needs dimensions 3 and channels 'repeat' or 'windows', got "
                f"{self.dimensions} and {self.channels!r}"
            )
        if self.zoom is not None:
            raise InputError("zoom is for models that see slices; a patch has its own window")


PAD_COLOUR = (0.485, 0.456, 0.406)
"""What SAM's normalisation maps to zero; SAM pads with zeros after it."""


class SliceView:
    """A volume (or a picture, as a single slice) seen as a stack of model inputs.

    The only place that maps between a file's grid and the model's pixels. Pixels are squares with
    integers at their centres, so source row r lies at model row (r + 0.5) * h / rows - 0.5. The
    source array is never copied as a whole.

    Attributes:
        shape: (slices, rows, columns) after reorientation, before scaling.
        spacing_mm: Distances along these axes; 1 where the file does not know.
        content_size: Height and width of the scaled slice; what is left of `size` is padding.
        ranges: Grey values (low, high) that become 0 and 1, one for all channels or one for each.

    Example:
        >>> view = SliceView(Picture(np.zeros((10, 20), np.uint8)), InputSpec(size=64))
        >>> view.content_size, view.image(0).shape
        ((32, 64), (3, 64, 64))
        >>> view.points_to_model(np.array([[0.0, 19.0]])).round(1).tolist()
        [[0.0, 1.1, 61.9]]

    Raises:
        ValueError: Array and geometry of the source differ in shape.
        InputError: Intensity "full" is asked of voxels other than uint8, uint16 and bool, or
            percentiles of voxels with NaN.
    """

    def __init__(self, source: Volume | Picture, spec: InputSpec) -> None:
        self.source, self.spec = source, spec
        self._axis = 0
        if isinstance(source, Volume):
            if source.array.shape != source.geometry.shape:
                raise ValueError(
                    f"array is {source.array.shape}, its geometry {source.geometry.shape} (k, j, i)"
                )
            self._change, turned = source.geometry.reoriented(spec.orientation)
            chosen = spec.slice_axis
            self._axis = _slice_axis(turned.spacing_mm) if chosen is None else chosen
            steps = list(turned.spacing_mm)
            self.spacing_mm = (steps.pop(self._axis), steps[0], steps[1])
        else:
            self.spacing_mm = (1.0, *(source.spacing_mm or (1.0, 1.0)))
        self._stack = self.stack(source.array)
        slices, rows, columns = self._stack.shape[:3]
        self.shape = (slices, rows, columns)
        self.content_size = _fit((rows, columns), self.spacing_mm[1:], spec.size)
        self.ranges = spec.intensity.ranges(self._stack, source.path)

    @property
    def model_spacing_mm(self) -> tuple[float, float, float]:
        """Distances along (slice, row, column) in pixels of the model input."""
        rows, columns = np.divide(self.shape[1:], self.content_size).tolist()
        return (self.spacing_mm[0], self.spacing_mm[1] * rows, self.spacing_mm[2] * columns)

    def image(self, index: int) -> Float[np.ndarray, "3 size size"]:
        """Model input of slice `index`, float32 in [0, 1]; lazy, so memory stays bounded."""
        self._check_index(index)
        rows, columns = self.content_size
        out = np.empty((3, self.spec.size, self.spec.size), dtype=np.float32)
        out[:] = np.array(PAD_COLOUR, dtype=np.float32)[:, None, None]
        out[:, :rows, :columns] = resized(self._channels(index), self.content_size)
        return out

    def label(
        self, labels: Shaped[np.ndarray, "..."], index: int
    ) -> Shaped[np.ndarray, "size size"]:
        """Slice `index` of a label array on the source grid, nearest, at the model size."""
        self._check_index(index)
        (rows, columns), (height, width) = self.shape[1:], self.content_size
        row = ((np.arange(height) + 0.5) * rows / height).astype(int)
        column = ((np.arange(width) + 0.5) * columns / width).astype(int)
        out = np.zeros((self.spec.size, self.spec.size), dtype=labels.dtype)
        out[:height, :width] = self.stack(labels)[index][np.ix_(row, column)]
        return out

    def points_to_model(
        self, index: Float[np.ndarray, "points axes"]
    ) -> Float[np.ndarray, "points 3"]:
        """Source voxel index (k, j, i), or (row, column) of a picture, to (slice, row, col) px."""
        points = np.asarray(index, dtype=np.float64)
        if isinstance(self.source, Volume):
            moved = self._change.index(points.reshape(-1, 3))
            rest = [axis for axis in range(3) if axis != self._axis]
            points = moved[:, [self._axis, *rest]]
        else:
            points = np.insert(points.reshape(-1, 2), 0, 0.0, axis=1)
        return (points + 0.5) * self._scale() - 0.5

    def model_to_source(
        self, points: Float[np.ndarray, "points 3"]
    ) -> Float[np.ndarray, "points axes"]:
        """Model pixels (slice, row, col) to source indices: the inverse of `points_to_model`."""
        points = (np.asarray(points, dtype=np.float64).reshape(-1, 3) + 0.5) / self._scale() - 0.5
        if not isinstance(self.source, Volume):
            return points[:, 1:]
        rest = [axis for axis in range(3) if axis != self._axis]
        moved = np.empty_like(points)
        moved[:, [self._axis, *rest]] = points
        return self._change.source_index(moved)

    def logits_to_source(
        self, logits: Sequence[Float[np.ndarray, "c rows cols"]], index: Sequence[int]
    ) -> Float[np.ndarray, "slices c h w"]:
        """Model logits `[c size' size']` of slices to logits on those slices' source pixels.

        The logits cover the whole model input, at any resolution; the result has the pixels of
        `shape`, before `restore`.
        """
        for number in index:
            self._check_index(number)
        if len(logits) != len(index):
            raise ValueError(f"{len(logits)} logit maps for {len(index)} slices")
        rows, columns = self.content_size
        square = (self.spec.size, self.spec.size)
        channels = len(logits[0]) if len(logits) else 0
        out = np.empty((len(logits), channels, *self.shape[1:]), dtype=np.float32)
        for number, one in enumerate(logits):
            content = enlarged(np.asarray(one, dtype=np.float32), square, (rows, columns))
            out[number] = enlarged(content, self.shape[1:])
        return out

    def stack(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """An array on the source grid as (slices, rows, columns); a view, the inverse of `restore`.

        Raises:
            ValueError: The array does not have the shape of the source.
        """
        if isinstance(self.source, Volume):
            return np.moveaxis(self._change.apply(array), self._axis, 0)
        if array.shape[:2] != self.source.size:
            raise ValueError(f"array must be {self.source.size}, got {array.shape[:2]}")
        return array[None]

    def cropped(self, window: Window, size: int) -> "SliceView":
        """The same slices, of which only a window of pixels is seen, as model inputs of `size`.

        Its points are (row, column) of the window.
        """
        part = copy(self)
        part.source = Picture(self._stack[0, window[0], window[1]], self.source.path)
        part._stack = self._stack[:, window[0], window[1]]
        slices, rows, columns = part._stack.shape[:3]
        part.shape = (slices, rows, columns)
        part.spec = replace(self.spec, size=size, zoom=None)
        part.content_size = _fit((rows, columns), self.spacing_mm[1:], size)
        return part

    def restore(
        self, stack: Shaped[np.ndarray, "slices rows columns"]
    ) -> Shaped[np.ndarray, "..."]:
        """A (slices, rows, columns) array back to the axis order and direction of the source."""
        if stack.shape != self.shape:
            raise ValueError(f"stack must be {self.shape} (slices, rows, columns): {stack.shape}")
        if not isinstance(self.source, Volume):
            return stack[0]
        return np.ascontiguousarray(self._change.invert(np.moveaxis(stack, 0, self._axis)))

    def _scale(self) -> Float[np.ndarray, "3"]:
        (rows, columns), (height, width) = self.shape[1:], self.content_size
        return np.array([1.0, height / rows, width / columns])

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.shape[0]:
            raise IndexError(f"slice must be 0 to {self.shape[0] - 1}, got {index}")

    def _channels(self, index: int) -> Float[np.ndarray, "c rows columns"]:
        """Slice `index` in [0, 1] at source resolution: three channels, or one for three equal."""
        if self.spec.channels == "neighbours":
            last = self.shape[0] - 1
            chosen = [max(index - 1, 0), index, min(index + 1, last)] if last else [0]
        else:
            chosen = [index]
        planes = [self._plane(number) for number in chosen]
        if self.spec.channels == "rgb" and planes[0].ndim == 3:
            planes = list(np.moveaxis(planes[0], -1, 0))
        planes = [plane @ LUMINANCE if plane.ndim == 3 else plane for plane in planes]
        count = max(len(planes), len(self.ranges))
        planes = planes * (count // len(planes))
        ranges = self.ranges * (count // len(self.ranges))
        scaled = [to_unit(plane, span) for plane, span in zip(planes, ranges, strict=True)]
        return np.stack(scaled)

    def _plane(self, index: int) -> Float[np.ndarray, "..."]:
        return np.array(self._stack[index], dtype=np.float32, order="C")


def _slice_axis(spacing_mm: tuple[float, float, float]) -> int:
    return next(axis for axis in range(3) if spacing_mm[axis] >= max(spacing_mm) * (1 - TIE))


def _fit(size: tuple[int, int], spacing_mm: tuple[float, ...], longest: int) -> tuple[int, int]:
    """Pixels (height, width) of a slice scaled so that its longest side has `longest`."""
    extent = [count * step for count, step in zip(size, spacing_mm, strict=True)]
    height, width = (max(1, round(longest * side / max(extent))) for side in extent)
    return (height, width)
