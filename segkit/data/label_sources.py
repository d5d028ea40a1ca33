"""The ways labels are stored: maps, stacks of masks, overlapping segments, colours, grey masks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from segkit.data.dicom_seg import read_seg
from segkit.data.files import RegularFile
from segkit.data.label_options import LabelOptions
from segkit.data.nrrd import Segment, parse_segments, read_header
from segkit.data.options import ReadOptions
from segkit.data.pictures import JPEG_MAGIC, is_picture, read_picture
from segkit.data.readers import PEEK, count_frames, holds_dicom, load_quietly
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.geometry import Geometry

CLEAR = 16  # grey values this close to 0 and 255 leave no doubt
MAX_LISTED = 8


@dataclass(frozen=True, slots=True, eq=False)
class LabelSource:
    """Values as stored, with the lattice and the names the file gives."""

    array: Shaped[np.ndarray, "..."]
    geometry: Geometry | None
    names: Mapping[int, str]


def read_source(
    path: Path,
    image: Volume | Picture,
    table: Mapping[int, str] | None,
    options: LabelOptions,
    read: ReadOptions,
    notes: list[str],
) -> LabelSource:
    """Read one label file. Remarkable facts are added to `notes`.

    Raises:
        InputError: The file cannot be read, or needs an option to be understood.
    """
    with RegularFile(path) as file:
        data = file.peek(PEEK)
    if isinstance(image, Volume) and holds_dicom(path, data):
        found = read_seg(path, like=image, segment=read.frame)
        return LabelSource(found.array, found.geometry, found.labels)
    count = count_frames(path)
    if count == 1:
        read = replace(read, frame=None)  # it chose from the series that the image is
    if is_picture(data) and count == 1:
        is_jpeg = data.startswith(JPEG_MAGIC)
        return LabelSource(_picture(path, options, read, notes, is_jpeg=is_jpeg), None, {})
    segments = parse_segments(read_header(path)) if data.startswith(b"NRRD") else ()
    if len({one.layer for one in segments}) > 1 and read.frame is None:
        return _segments(path, segments, table, options, read, notes)
    if count > 1 and read.frame is None and not options.one_hot:
        raise InputError(
            f"has {count} frames, expected one label map",
            fix="say --one-hot if each is the mask of one class, or choose one with --frame",
            path=path,
            option="--one-hot",
        )
    if count > 1 and read.frame is None:
        return _one_hot(path, count, table, options, read, notes)
    stored = load_quietly(path, read, notes)
    array = _thresholded(stored.array, options, notes)
    names = stored.labels if isinstance(stored, Volume) else {}
    return LabelSource(array, _geometry(stored), names)


def _picture(
    path: Path, options: LabelOptions, read: ReadOptions, notes: list[str], *, is_jpeg: bool
) -> Shaped[np.ndarray, "h w"]:
    array = read_picture(path, read, notes, keeps_indices=True).array
    if options.colours:
        return _coloured(array, options, path)
    if array.ndim == 3:
        if (array != array[..., :1]).any():
            raise InputError(
                "is a colour picture, expected label values",
                fix="give the value of each colour with --colours RRGGBB=VALUE,...",
                path=path,
                option="--colours",
            )
        array = array[..., 0]
    if is_jpeg and options.threshold is None:
        doubtful = int(((array > CLEAR) & (array < 255 - CLEAR)).sum())
        raise InputError(
            f"is a JPEG, which does not keep label values ({doubtful:,} pixels lie between 0 and "
            "255)",
            fix="say --threshold 127 to read it as a mask, or store labels as PNG",
            path=path,
            option="--threshold",
        )
    return _thresholded(array, options, notes)


def _thresholded(
    array: Shaped[np.ndarray, "..."], options: LabelOptions, notes: list[str]
) -> Shaped[np.ndarray, "..."]:
    if options.threshold is None:
        return array
    doubtful = int(((array > CLEAR) & (array < 255 - CLEAR)).sum())
    if doubtful and options.threshold >= 1:  # below, values are numbers of objects, not shades
        notes.append(
            f"grey values above {options.threshold:g} are the object; {doubtful:,} ambiguous"
        )
    return (array > options.threshold).astype(np.uint8)


def _coloured(
    array: Shaped[np.ndarray, "..."], options: LabelOptions, path: Path
) -> Shaped[np.ndarray, "h w"]:
    if array.ndim != 3 or array.dtype != np.uint8:
        raise InputError("is no 8-bit colour picture", fix="drop --colours", path=path)
    wide = array.astype(np.uint32)
    codes = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    present, counts = np.unique(codes, return_counts=True)
    known = {(r << 16) + (g << 8) + b: value for (r, g, b), value in options.colours.items()}
    known.setdefault(0, 0)  # black is background unless the table says otherwise
    unknown = [(c, n) for c, n in zip(present.tolist(), counts.tolist(), strict=True)
               if c not in known]  # fmt: skip
    if unknown:
        listed = ", ".join(f"{code:06x} ({count:,} pixels)" for code, count in unknown[:MAX_LISTED])
        raise InputError(
            f"{len(unknown)} colours are not in the table: {listed}",
            fix="add them to --colours",
            path=path,
            code="label_values",
        )
    out = np.zeros(codes.shape, dtype=np.int64)
    for code, value in known.items():
        out[codes == code] = value
    return out


def _one_hot(
    path: Path,
    count: int,
    table: Mapping[int, str] | None,
    options: LabelOptions,
    read: ReadOptions,
    notes: list[str],
) -> LabelSource:
    """Stack of `count` masks; the first is the background where there is one more than classes."""
    declared = sorted(value for value in table or {} if value != 0)
    has_background = count == len(declared) + 1
    if table is not None and count not in (len(declared), len(declared) + 1):
        raise InputError(
            f"has {count} masks for {len(declared)} declared labels",
            fix="declare one label for each mask",
            path=path,
        )
    values = declared or list(range(1, count + 1))
    names = {value: (table or {}).get(value, str(value)) for value in values}
    order = sorted(values, key=lambda value: _rank(names[value], options.priority))
    overlaps, found = 0, None
    for value in order:
        frame = values.index(value) + (1 if has_background else 0)
        layer = load_quietly(path, replace(read, frame=frame), notes if found is None else [])
        mask = _binary(layer.array, frame, path)
        found = found or LabelSource(np.zeros(mask.shape, np.uint16), _geometry(layer), {})
        overlaps += int((mask & (found.array > 0)).sum())
        found.array[mask & (found.array == 0)] = value
    if overlaps and not options.priority:
        raise InputError(
            f"{overlaps:,} voxels belong to several masks of the stack",
            fix="say which win with --priority NAME,..., best first",
            path=path,
            option="--priority",
            code="label_overlap",
        )
    assert found is not None
    notes.append(f"stack of {count} masks read as the labels {values}")
    return found


def _binary(array: Shaped[np.ndarray, "..."], frame: int, path: Path) -> Shaped[np.ndarray, "..."]:
    high = array.max()
    if not ((array == 0) | (array == high)).all():
        raise InputError(
            f"mask {frame} of the stack has more than two values",
            fix="drop --one-hot if it is a series of label maps, and choose one with --frame",
            path=path,
        )
    return array > 0


def _segments(
    path: Path,
    segments: tuple[Segment, ...],
    table: Mapping[int, str] | None,
    options: LabelOptions,
    read: ReadOptions,
    notes: list[str],
) -> LabelSource:
    """Segments in several layers, painted so that the first of `options.priority` wins."""
    _check_priority([one.name for one in segments], options.priority, path)
    values = _segment_values(segments, table, path)
    order = sorted(segments, key=lambda one: _rank(one.name, options.priority))
    found = None
    for one in reversed(order):
        layer = load_quietly(path, replace(read, frame=one.layer), notes if found is None else [])
        found = found or LabelSource(np.zeros(layer.array.shape, np.uint16), _geometry(layer), {})
        found.array[layer.array == one.value] = values[one.name]
    assert found is not None
    notes.append(f"overlapping segments; {', '.join(options.priority)} win in this order")
    return found


def _check_priority(names: list[str], priority: tuple[str, ...], path: Path) -> None:
    if not priority:
        raise InputError(
            f"has overlapping segments: {', '.join(names[:MAX_LISTED])}",
            fix="say which win with --priority NAME,..., best first",
            path=path,
            option="--priority",
            code="label_overlap",
        )
    if missing := sorted(set(priority) - set(names)):
        raise InputError(
            f"has no segments {missing}; it has {names[:MAX_LISTED]}",
            fix="correct --priority",
            path=path,
        )


def _segment_values(
    segments: tuple[Segment, ...], table: Mapping[int, str] | None, path: Path
) -> Mapping[str, int]:
    """Label value of each segment: from the table by name, else numbered in their order."""
    names = [one.name for one in segments]
    if table is None:
        return {name: number for number, name in enumerate(names, start=1)}
    declared = {name.casefold(): value for value, name in table.items()}
    if unknown := [name for name in names if name.casefold() not in declared]:
        raise InputError(
            f"segments {unknown[:MAX_LISTED]} are not in the label table",
            fix=f"rename them to {sorted(table.values())[:MAX_LISTED]}",
            path=path,
            code="label_names",
        )
    return {name: declared[name.casefold()] for name in names}


def _rank(name: str, priority: tuple[str, ...]) -> int:
    return priority.index(name) if name in priority else len(priority)


def _geometry(source: Volume | Picture) -> Geometry | None:
    return source.geometry if isinstance(source, Volume) else None
