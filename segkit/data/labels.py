"""Label maps held against the image they belong to and the table that declares their values."""

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from segkit.data.label_options import LabelOptions
from segkit.data.label_sources import LabelSource, read_source
from segkit.data.options import ReadOptions
from segkit.data.volume import Picture, Volume
from segkit.errors import DataWarning, InputError

WHOLE = 1e-3  # distance from an integer that counts as rounding
SAME_VOXELS = 1e-3  # corner distance of lattices that count as one
MAX_LISTED = 8
MAX_TABLE = 2**20  # span of values that is counted with a table


def read_labels(
    path: str | Path,
    image: Volume | Picture,
    table: Mapping[int, str] | None = None,
    options: LabelOptions | None = None,
    read: ReadOptions | None = None,
) -> Shaped[np.ndarray, "..."]:
    """Label values on the grid of `image`: uint8, or uint16 where a value is above 255.

    `table` declares the allowed values by name; without it all are. A mask of 0 and 255 becomes 0
    and 1 (or the only value of the table). The ignore value of `options` is returned as the largest
    one of the type, see `ignored_value`.

    Raises:
        InputError: Shape, lattice, values or names do not fit; its `option` names what makes an
            ambiguous file proceed.
    """
    path, options = Path(path), options or LabelOptions()
    notes: list[str] = []
    source = read_source(path, image, table, options, read or ReadOptions(), notes)
    values = _on_grid(source, image, options, path, notes)
    values = _whole(values, path, notes)
    values = _mapped(values, options.mapping)
    values = _unpacked(values, table, options)
    found = _check(values, table, options, path)
    if table is not None and not options.mapping:
        check_names({v: name for v, name in source.names.items() if v in found}, table, path)
    for note in notes:
        warnings.warn(f"{path}: {note}", DataWarning, stacklevel=2)
    return _stored(values, found, options.ignore)


def ignored_value(dtype: np.dtype) -> int:
    """Value that stands for "counts for nothing" in what `read_labels` returns."""
    return int(np.iinfo(dtype).max)


def check_names(
    found: Mapping[int, str], expected: Mapping[int, str], path: str | Path | None = None
) -> None:
    """Compare the names of equal label values, without regard to case.

    Raises:
        InputError: A value has another name, or none, in `expected`.
    """
    folded = {value: name.casefold() for value, name in expected.items()}
    if wrong := {v: name for v, name in found.items() if folded.get(v) != name.casefold()}:
        listed = ", ".join(
            f"{value} is {name!r}, expected {expected.get(value, 'nothing')!r}"
            for value, name in sorted(wrong.items())[:MAX_LISTED]
        )
        raise InputError(
            f"label names differ: {listed}",
            fix="map the values with --map-labels OLD=NEW,...",
            path=path,
            option="--map-labels",
            code="label_names",
        )


def _on_grid(
    source: LabelSource,
    image: Volume | Picture,
    options: LabelOptions,
    path: Path,
    notes: list[str],
) -> Shaped[np.ndarray, "..."]:
    """Labels on the lattice of the image; refuses another shape."""
    array, geometry = source.array, source.geometry
    shape = image.size if isinstance(image, Picture) else image.geometry.shape
    if array.shape != shape and array.shape[-2:] == shape[-2:] and array.size == np.prod(shape):
        array = array.reshape(shape)  # a single slice, stored with or without its axis
    if array.shape != shape:
        raise InputError(
            f"labels have the shape {array.shape}, the image {shape}",
            fix="use the labels made for this image",
            path=path,
            code="label_shape",
        )
    if isinstance(image, Picture) or geometry is None or geometry.shape != shape:
        return array
    if not (geometry.is_known and image.geometry.is_known):
        return array
    shift = image.geometry.corner_shift(geometry)
    if shift <= SAME_VOXELS:
        return array
    fact = f"labels lie {shift:.3g} voxels off the image"
    if not options.resample:
        raise InputError(
            fact,
            fix="correct the frame, or say --resample-labels",
            path=path,
            option="--resample-labels",
            code="label_lattice",
        )
    notes.append(f"{fact}; resampled, nearest voxel")
    return _resampled(array, source, image)


def _resampled(
    array: Shaped[np.ndarray, "k j i"], source: LabelSource, image: Volume
) -> Shaped[np.ndarray, "k j i"]:
    """Nearest label of each image voxel, 0 outside; plane by plane, so that memory is bounded."""
    assert source.geometry is not None
    depth, height, width = image.geometry.shape
    rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1).astype(np.float64)
    out = np.zeros(image.geometry.shape, array.dtype)
    limit = np.array(array.shape)
    for k in range(depth):
        index = np.stack([np.full_like(rows, k), rows, columns], axis=1)
        world = image.geometry.to_world_mm(index)
        near = np.floor(source.geometry.to_index(world, "ras") + 0.5).astype(np.int64)
        inside = ((near >= 0) & (near < limit)).all(axis=1)
        out[k].reshape(-1)[inside] = array[tuple(near[inside].T)]
    return out


def _whole(
    values: Shaped[np.ndarray, "..."], path: Path, notes: list[str]
) -> Shaped[np.ndarray, "..."]:
    """Float labels as integers; row by row of the first axis, so that memory is bounded."""
    if values.dtype.kind != "f":
        return values.astype(np.uint8) if values.dtype == bool else values
    out = np.empty(values.shape, np.int32)
    bad, worst = 0, 0.0
    for source, target in zip(values, out, strict=True):
        rounded = np.rint(source)
        distance = np.abs(source - rounded)
        bad, worst = bad + int((distance > WHOLE).sum()), max(worst, float(distance.max()))
        target[...] = np.clip(rounded, -(2**31), 2**31 - 1)
    if bad:
        raise InputError(
            f"{bad:,} labels are no whole numbers (off by up to {worst:.3g})",
            fix="store label values, not probabilities",
            path=path,
            code="label_values",
        )
    if worst > 0:
        notes.append(f"labels off whole numbers by up to {worst:.1g} were rounded")
    return out


def count_values(values: Shaped[np.ndarray, "..."]) -> dict[int, int]:
    """How often each value of an integer array occurs."""
    total: Counter[int] = Counter()
    for row in values:
        low, high = int(row.min()), int(row.max())
        if high - low < MAX_TABLE:
            counts = np.bincount((row.astype(np.int64) - low).ravel())
            present = np.flatnonzero(counts)
            total.update(dict(zip((present + low).tolist(), counts[present].tolist(), strict=True)))
        else:
            present, counts = np.unique(row, return_counts=True)
            total.update(dict(zip(present.tolist(), counts.tolist(), strict=True)))
    return dict(total)


def _mapped(
    values: Shaped[np.ndarray, "..."], mapping: Mapping[int, int]
) -> Shaped[np.ndarray, "..."]:
    if not mapping:
        return values
    out = values.astype(np.int64)
    for old, new in mapping.items():
        out[values == old] = new
    return out


def _unpacked(
    values: Shaped[np.ndarray, "..."], table: Mapping[int, str] | None, options: LabelOptions
) -> Shaped[np.ndarray, "..."]:
    """0 and 255 as 0 and the only label; other maps as they are."""
    declared = [value for value in table or {1: ""} if value != 0]
    if options.instances or options.ignore == 255 or len(declared) != 1 or 255 in declared:
        return values
    is_object = values == 255
    if not is_object.any() or not (is_object | (values == 0)).all():
        return values
    return is_object.astype(np.uint16) * declared[0]


def _check(
    values: Shaped[np.ndarray, "..."],
    table: Mapping[int, str] | None,
    options: LabelOptions,
    path: Path,
) -> list[int]:
    """Refuse negative, too large and undeclared values; the ones that are left."""
    numbers = count_values(values)
    if options.ignore is not None:
        numbers.pop(options.ignore, None)
    if numbers and min(numbers) < 0:
        _refuse(
            {v: n for v, n in numbers.items() if v < 0},
            "negative label values",
            "declare the ignore value with --ignore-value, or correct the labels",
            path,
        )
    if numbers and max(numbers) > 65535:
        _refuse(
            {v: n for v, n in numbers.items() if v > 65535},
            "label values above 65,535",
            "number the labels from 1",
            path,
        )
    if table is not None and not options.instances:
        unknown = {v: n for v, n in numbers.items() if v != 0 and v not in table}
        if unknown:
            names = ", ".join(f"{value} {name}" for value, name in sorted(table.items()))
            _refuse(
                unknown,
                "undeclared label values",
                f"declared are {names}; add them to the table, or use --map-labels",
                path,
            )
    return list(numbers)


def _refuse(values: Mapping[int, int], what: str, fix: str, path: Path) -> None:
    listed = ", ".join(f"{v} ({n:,} voxels)" for v, n in sorted(values.items())[:MAX_LISTED])
    more = f" and {len(values) - MAX_LISTED} more" if len(values) > MAX_LISTED else ""
    raise InputError(f"{what}: {listed}{more}", fix=fix, path=path, code="label_values")


def _stored(
    values: Shaped[np.ndarray, "..."], found: list[int], ignore: int | None
) -> Shaped[np.ndarray, "..."]:
    """The smallest of uint8 and uint16 that holds all values and the ignore value."""
    is_small = max(found, default=0) <= (255 if ignore is None else 254)
    dtype = np.dtype(np.uint8 if is_small else np.uint16)
    if ignore is None:
        return values.astype(dtype, copy=False)
    return np.where(values == ignore, ignored_value(dtype), values).astype(dtype)
