"""Intervals of what `segkit measure` measures, from probabilities of its labels."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from segkit.data.options import ReadOptions
from segkit.data.readers import load
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.metrics.measurements import Measurements
from segkit.metrics.shape_intervals import (
    Pair,
    change_intervals,
    label_intervals,
    picture_intervals,
    relation_intervals,
)

Rows = list[dict[str, object]]
_CHANGE_OF = {"volume_ml": "volume", "longest_mm": "longest"}


def volume_intervals(
    args: argparse.Namespace,
    options: ReadOptions,
    mask: Volume,
    measured: Measurements,
    before: Measurements | None,
) -> Rows:
    """Intervals of labels, of the relations that were asked for, and of the change.

    Raises:
        InputError: A probability lies on another grid, or its label is not clear.
    """
    values = [label.value for label in measured.labels]
    found = _read(args.probability, options, values, mask.geometry, mask.path)
    rows: Rows = []
    own = {value: label_intervals(p, mask.geometry) for value, p in found.items()}
    for value, each in own.items():
        rows += [_row(name, pair, value=value) for name, pair in each.items()]
    for first, second in args.between:
        if first in found and second in found:
            each_ = relation_intervals(found[first], found[second], mask.geometry)
            rows += [_row(name, pair, between=f"{first},{second}") for name, pair in each_.items()]
    if before is None or not args.before_probability:
        return rows
    earlier = read_volume(args.before, options)
    labels = [label.value for label in before.labels]
    old = _read(args.before_probability, options, labels, earlier.geometry, earlier.path)
    for value in sorted(old.keys() & own.keys()):
        then = label_intervals(old[value], earlier.geometry)
        for name, short in _CHANGE_OF.items():
            for what, pair in change_intervals(then[name], own[value][name]).items():
                rows.append(_row(f"{short}_change_{what}", pair, value=value))
    return rows


def intervals_of_picture(
    args: argparse.Namespace, values: Sequence[int], mask: Picture, spacing_mm: Pair
) -> Rows:
    """Intervals of area, axes and circumference; whole numbers count as shares of their maximum."""
    rows: Rows = []
    for value, path in _by_label(args.probability, values, mask.path).items():
        opened = load(path)
        if not isinstance(opened, Picture) or opened.array.shape != mask.array.shape:
            raise InputError("is no picture of the size of the mask", path=path, code="grid")
        array = opened.array
        scale = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
        found = picture_intervals(array.astype(np.float64) / scale, spacing_mm)
        rows += [_row(name, pair, value=value) for name, pair in found.items()]
    return rows


def read_volume(path: Path, options: ReadOptions) -> Volume:
    """Read a file that must be a volume.

    Raises:
        InputError: It is a picture.
    """
    found = load(path, options)
    if isinstance(found, Volume):
        return found
    raise InputError(
        "is a picture, which has no millimetres along the third axis",
        path=path,
        fix="give a volume (.nii.gz, .nrrd, .mha or DICOM)",
        code="not_a_volume",
    )


def _read(
    given: Sequence[tuple[int | None, Path]],
    options: ReadOptions,
    values: Sequence[int],
    geometry: Geometry,
    mask: Path | None,
) -> dict[int, np.ndarray]:
    """Probabilities by label, on the grid of the mask."""
    found = {}
    for value, path in _by_label(given, values, mask).items():
        opened = read_volume(path, options)
        if opened.geometry.shape != geometry.shape or (
            geometry.corner_shift(opened.geometry) > 1e-3
        ):
            raise InputError("lies on another grid than the mask", path=path, code="grid")
        found[value] = opened.array.astype(np.float64)
    return found


def _by_label(
    given: Sequence[tuple[int | None, Path]], values: Sequence[int], mask: Path | None
) -> Mapping[int, Path]:
    """Files by label; one without a label is about the mask's only one."""
    found: dict[int, Path] = {}
    for value, path in given:
        if value is None and len(values) != 1:
            raise InputError(
                f"holds {len(values)} labels; a probability describes exactly one",
                path=mask,
                fix="say which one: --probability LABEL=FILE",
                code="one_label",
            )
        label = values[0] if value is None else value
        if label not in values:
            raise InputError(f"has no label {label}; it has {list(values)}", path=mask)
        found[label] = path
    return found


def _row(name: str, pair: Pair | None, **about: object) -> dict[str, object]:
    return {**about, "measurement": name, "ci95": pair}
