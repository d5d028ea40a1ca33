"""What one labelled case contributes to the fingerprint of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass

import cc3d
import edt
import numpy as np
from jaxtyping import Bool, Integer

from segkit.data.intensity import FULL_RANGE
from segkit.data.volume import Picture, Volume

Labels = Integer[np.ndarray, "*shape"]

ORIENTATION = "RAS"
_SAMPLES = 4096  # voxels of a case that the intensities are told from


@dataclass(frozen=True, slots=True)
class ClassFacts:
    """One class in one case; sizes in millimetres, pixels where the file knows no spacing.

    `objects` are connected parts in the volume, `objects_2d` those in each slice that has any.
    `diameter` is that of a disc of the median part's area; `thickness` is four times the mean
    distance to the border, in pixels of the slice: the width of a long strip, two thirds of the
    diameter of a disc; `fill` is the share of a part's box that is its own.
    """

    voxels: int
    objects: int
    objects_2d: float
    diameter_mm: float
    thickness_px: float
    fill: float


@dataclass(frozen=True, slots=True, eq=False)
class CaseFacts:
    """One case in array order (k, j, i) of the orientation RAS; pictures have one slice."""

    id: str
    group: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    slice_axis: int
    dtype: str
    is_colour: bool
    has_spacing: bool
    empty_slices: int
    inside: np.ndarray  # sampled intensities of labelled voxels
    everywhere: np.ndarray
    range_used: float  # share of the data type's range, see `_range_used`
    classes: Mapping[int, ClassFacts]

    @property
    def slices(self) -> int:
        """Number of slices along the slice axis."""
        return self.shape[self.slice_axis]

    @property
    def plane(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        rows, columns = (side for axis, side in enumerate(self.shape) if axis != self.slice_axis)
        return rows, columns


def look_at(
    id_: str, group: str, source: Volume | Picture, labels: Labels, names: Mapping[int, str]
) -> CaseFacts:
    """Measure one case; `labels` lies on the grid of `source`."""
    array, spacing = _in_order(source, source.array)
    mask, _ = _in_order(source, labels)
    axis = 0 if isinstance(source, Picture) else _coarsest(spacing)
    planes = np.moveaxis(mask, axis, 0)
    in_plane = tuple(step for number, step in enumerate(spacing) if number != axis)
    grey = array if array.ndim == 3 else array.mean(axis=-1)
    values = {value: planes == value for value in names}
    return CaseFacts(
        id_,
        group,
        (mask.shape[0], mask.shape[1], mask.shape[2]),
        spacing,
        axis,
        source.array.dtype.name,
        array.ndim == 4,
        isinstance(source, Volume) or source.spacing_mm is not None,
        int(np.count_nonzero(~planes.any(axis=(1, 2)))),
        _sampled(grey[mask > 0]),
        _sampled(grey),
        _range_used(grey, source.array.dtype),
        {value: _class(one, in_plane) for value, one in values.items() if one.any()},
    )


def _in_order(
    source: Volume | Picture, array: np.ndarray
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """An array as (k, j, i[, colour]) in RAS, with its spacing."""
    if isinstance(source, Volume):
        change, turned = source.geometry.reoriented(ORIENTATION)
        return change.apply(array), turned.spacing_mm
    rows, columns = source.spacing_mm or (1.0, 1.0)
    return array[None], (1.0, rows, columns)


def _coarsest(spacing_mm: tuple[float, float, float]) -> int:
    """The axis slices are taken along: that of the largest spacing, of equal ones the first."""
    largest = max(spacing_mm)
    return next(axis for axis, step in enumerate(spacing_mm) if step > largest * (1 - 1e-3))


def _class(mask: Bool[np.ndarray, "slices rows cols"], spacing_mm: tuple[float, ...]) -> ClassFacts:
    labelled = [plane for plane in mask if plane.any()]
    parts = [_parts(plane) for plane in labelled]
    sizes = np.concatenate([part[0] for part in parts])
    middle = np.pad(labelled[len(labelled) // 2], 1)
    # half a pixel from the centre of a border pixel to the border itself
    depth = edt.edt(middle.astype(np.uint8))[middle] - 0.5
    count = int(cc3d.connected_components(mask, connectivity=26).max())
    area_mm2 = float(np.median(sizes)) * spacing_mm[0] * spacing_mm[1]
    return ClassFacts(
        voxels=int(np.count_nonzero(mask)),
        objects=count,
        objects_2d=len(sizes) / len(labelled),
        diameter_mm=2 * float(np.sqrt(area_mm2 / np.pi)),
        thickness_px=4 * float(depth.mean()),
        fill=float(np.median(np.concatenate([part[1] for part in parts]))),
    )


def _parts(plane: Bool[np.ndarray, "rows cols"]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each connected part of a slice, and their share of its box."""
    found = cc3d.statistics(cc3d.connected_components(plane, connectivity=8))
    pixels = np.asarray(found["voxel_counts"][1:], dtype=np.float64)
    boxes = [
        (rows.stop - rows.start) * (columns.stop - columns.start)
        for rows, columns, *_ in found["bounding_boxes"][1:]
    ]
    return pixels, pixels / np.asarray(boxes, dtype=np.float64)


def _range_used(grey: np.ndarray, dtype: np.dtype) -> float:
    """From the darkest to the brightest half percent, of what the type holds; 1 where it has none.

    This is what is left of the contrast of a picture that is read at its full range.
    """
    full = FULL_RANGE.get(dtype.name)
    if full is None:
        return 1.0
    low, high = np.percentile(_sampled(grey), [0.5, 99.5])
    return float(high - low) / full


def _sampled(values: np.ndarray) -> np.ndarray:
    """At most `_SAMPLES` values at equal steps, so that every run sees the same."""
    flat = values.reshape(-1)
    return flat[:: max(1, -(-flat.size // _SAMPLES))].astype(np.float64)
