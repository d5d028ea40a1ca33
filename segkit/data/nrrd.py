"""NRRD: attached and detached headers, raw or gzip, with the segments 3D Slicer stores in them.

Source: "Definition of NRRD File Format" (teem.sourceforge.net/nrrd/format.html) and the
documentation of 3D Slicer's segmentation file format.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Shaped

from segkit.data.blocks import Block, check_frame_count, check_size, read_block
from segkit.data.files import DeflateStream, PlainStream, RegularFile, Stream, check_budget
from segkit.data.itk_frame import (
    EXPORT,
    MAX_HEADER,
    data_file,
    framed,
    numbers,
    unframed,
    whole_numbers,
)
from segkit.data.options import ReadOptions
from segkit.data.volume import Volume
from segkit.data.voxels import check_values, grey, to_native
from segkit.errors import InputError
from segkit.geometry import Geometry

TYPES = {
    "i1": "signed char,int8,int8_t",
    "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
    "f4": "float",
    "f8": "double",
}
DTYPES = {name: np.dtype(code) for code, names in TYPES.items() for name in names.split(",")}
TO_RAS = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "µm": 0.001, "micron": 0.001}
COLOUR_KINDS = ("rgb-color", "rgba-color")
SPATIAL_KINDS = ("domain", "space", "???", "none")


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a Slicer segmentation: its voxels have `value` in layer `layer`."""

    name: str
    value: int
    layer: int


@dataclass(frozen=True, slots=True)
class NrrdHeader:
    """Header entries in lower case, key/value pairs as they are, and where the header ends."""

    entries: Mapping[str, str]
    pairs: Mapping[str, str]
    length: int
    path: Path

    def need(self, name: str) -> str:
        """An entry that must be there."""
        if name not in self.entries:
            raise InputError(f"NRRD header without {name!r}", fix=EXPORT, path=self.path)
        return self.entries[name]


@dataclass(frozen=True, slots=True)
class NrrdAxes:
    """Voxels along the spatial file axes, and the other axis, if any.

    `side` is 0 without another axis, -1 if it is the fastest, 1 if it is the slowest one.
    """

    sizes: tuple[int, ...]
    side: int = 0
    count: int = 1
    kind: str = ""


def read_nrrd(path: Path, options: ReadOptions, notes: list[str]) -> Volume:
    """Read a volume. Warnings are added to `notes`.

    Raises:
        InputError: The file is damaged or ambiguous; the message names the option that decides.
    """
    header = read_header(path)
    axes = parse_axes(header)
    is_colour = axes.side < 0 and axes.kind in COLOUR_KINDS
    if not is_colour:
        check_frame_count(axes.count, options, path)
    array = read_voxels(header, axes, None if is_colour else options.frame or 0, options, notes)
    array = grey(array, options, path, notes) if is_colour else array
    geometry = nrrd_geometry(header, axes, options, notes)
    segments = parse_segments(header)
    labels = {one.value: one.name for one in segments if one.layer == (options.frame or 0)}
    return Volume(
        check_values(array, options, path, notes),
        geometry,
        path,
        labels=MappingProxyType(labels),
        header=MappingProxyType({"segments": segments} if segments else {}),
    )


def read_header(path: Path) -> NrrdHeader:
    """Parse the text in front of the voxels."""
    with RegularFile(path) as source:
        data = source.peek(MAX_HEADER)
    head, blank, _ = data.partition(b"\n\n")
    if b"\r\n\r\n" in data and (not blank or data.index(b"\r\n\r\n") < len(head)):
        head, blank, _ = data.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", errors="replace").splitlines()
    if not re.fullmatch(r"NRRD000[1-6]", lines[0].strip()):
        raise InputError(f"not a NRRD file: starts with {lines[0][:20]!r}", fix=EXPORT, path=path)
    entries, pairs = {}, {}
    for line in lines[1:]:
        if line.startswith("#"):
            continue
        if (cut := re.match(r"([^:]+?)\s*:(=|\s)\s*(.*)", line)) is None:
            raise InputError(f"NRRD header with the line {line[:60]!r}", fix=EXPORT, path=path)
        name, kind, value = cut.groups()
        if kind == "=":
            pairs[name] = value
        else:
            entries[name.lower().replace(" ", "")] = value.strip()
    if not blank and "datafile" not in entries:
        raise InputError("truncated: ends inside its header", fix="copy the file again", path=path)
    return NrrdHeader(entries, pairs, len(head) + len(blank), path)


def parse_axes(header: NrrdHeader) -> NrrdAxes:
    """Tell spatial axes from the one of colours, frames or layers."""
    path = header.path
    dimension = whole_numbers(header.need("dimension"), 1, "dimension", path)[0]
    sizes = whole_numbers(header.need("sizes"), dimension, "sizes", path)
    directions = re.findall(r"none|\([^)]*\)", header.entries.get("spacedirections", ""))
    kinds = header.entries.get("kinds", "").lower().split()
    if len(directions) == dimension:
        is_spatial = [one != "none" for one in directions]
    elif len(kinds) == dimension:
        is_spatial = [one in SPATIAL_KINDS for one in kinds]
    else:
        is_spatial = [axis < 3 for axis in range(dimension)]
    spatial = tuple(size for size, flag in zip(sizes, is_spatial, strict=True) if flag)
    others = [axis for axis, flag in enumerate(is_spatial) if not flag]
    if len(spatial) not in (2, 3) or len(others) > 1 or (others and 0 < others[0] < dimension - 1):
        raise InputError(
            f"has {len(spatial)} spatial and {len(others)} other axes, expected 2 or 3 and at most "
            "one in front or at the end",
            fix="export one scalar volume",
            path=path,
        )
    if not others:
        return NrrdAxes(spatial)
    kind = kinds[others[0]] if len(kinds) == dimension else ""
    return NrrdAxes(spatial, -1 if others[0] == 0 else 1, sizes[others[0]], kind)


def read_voxels(
    header: NrrdHeader,
    axes: NrrdAxes,
    frame: int | None,
    options: ReadOptions,
    notes: list[str],
) -> Shaped[np.ndarray, "..."]:
    """Voxels (k, j, i) of one frame; with `frame` None of all, as (k, j, i, frame)."""
    block, path = _block(header, axes), header.path
    entry = header.entries.get("datafile")
    with RegularFile(path if entry is None else data_file(path, entry)) as source:
        stream, block = _open(source, header, block, is_attached=entry is None)
        check_size(source, stream, block, notes)
        check_budget(path, block.frame_bytes, options.max_gb)
        stream.skip(block.offset)
        array = read_block(source, stream, block, 0 if axes.side <= 0 else frame or 0, notes)
    array = to_native(array)
    if axes.side < 0 and frame is not None:
        array = np.ascontiguousarray(array[..., frame])
    return array.reshape(shape_of(axes) + array.shape[len(axes.sizes) :])


def shape_of(axes: NrrdAxes) -> tuple[int, int, int]:
    """Shape (k, j, i) of a frame; two-dimensional files are one slice."""
    i, j, k = (*axes.sizes, 1)[:3]
    return (k, j, i)


def nrrd_geometry(
    header: NrrdHeader, axes: NrrdAxes, options: ReadOptions, notes: list[str]
) -> Geometry:
    """Lattice in RAS mm from space, directions and origin."""
    path, entries = header.path, header.entries
    shape = shape_of(axes)
    directions = [
        numbers(text[1:-1].replace(",", " "), None, "space directions", path)
        for text in re.findall(r"\([^)]*\)", entries.get("spacedirections", ""))
    ]
    if directions and len(directions) != len(axes.sizes):
        raise InputError(
            f"has {len(directions)} space directions for {len(axes.sizes)} axes",
            fix=EXPORT,
            path=path,
        )
    space = entries.get("space", "").lower().removesuffix("-time")
    unit = _unit(header, notes)
    if space not in TO_RAS or len(directions) != 3 or any(len(one) != 3 for one in directions):
        spacing = [float(np.linalg.norm(one)) for one in directions]
        if not spacing and "spacings" in entries:
            count = len(axes.sizes) + (1 if axes.side else 0)
            spacing = numbers(entries["spacings"], count, "spacings", path)
            spacing = spacing[1:] if axes.side < 0 else spacing
        steps = tuple(step * unit for step in spacing[: len(axes.sizes)]) or None
        return unframed(shape, steps, options, path, notes)
    origin = entries.get("spaceorigin", "(0,0,0)").strip("() ").replace(",", " ")
    affine: Float[np.ndarray, "4 4"] = np.eye(4)
    affine[:3, :3] = np.array(directions).T
    affine[:3, 3] = numbers(origin, 3, "space origin", path)
    affine[:3] *= unit * np.array(TO_RAS[space])[:, None]
    return framed(shape, affine, options, path)


def parse_segments(header: NrrdHeader) -> tuple[Segment, ...]:
    """Segments of a Slicer segmentation, in their order; empty for other files."""
    found = []
    for number in range(len(header.pairs)):
        name = header.pairs.get(f"Segment{number}_Name", header.pairs.get(f"Segment{number}_ID"))
        if name is None:
            break
        value, layer = (
            header.pairs.get(f"Segment{number}_{key}", default)
            for key, default in (("LabelValue", "1"), ("Layer", "0"))
        )
        if not (value.isdecimal() and layer.isdecimal()):
            raise InputError(f"segment {name!r} has no label value", fix=EXPORT, path=header.path)
        found.append(Segment(name, int(value), int(layer)))
    return tuple(found)


def _block(header: NrrdHeader, axes: NrrdAxes) -> Block:
    kind = header.need("type").lower()
    if kind not in DTYPES:
        raise InputError(
            f"{kind} voxels not supported", fix="convert it to short or float", path=header.path
        )
    dtype = DTYPES[kind]
    if dtype.itemsize > 1:
        order = header.need("endian").lower()
        if order not in ("little", "big"):
            raise InputError(
                f"endian is {order!r}, expected little or big", fix=EXPORT, path=header.path
            )
        dtype = dtype.newbyteorder("<" if order == "little" else ">")
    shape = axes.sizes[::-1] + ((axes.count,) if axes.side < 0 else ())
    return Block(shape, dtype, frames=axes.count if axes.side > 0 else 1)


def _open(
    source: RegularFile, header: NrrdHeader, block: Block, *, is_attached: bool
) -> tuple[Stream, Block]:
    """Stream of the voxels, and the block with its place in it."""
    encoding = header.need("encoding").lower()
    start = header.length if is_attached else 0
    skip_text = header.entries.get("byteskip", "0")
    skip = numbers(skip_text, 1, "byte skip", header.path)[0]
    lines = header.entries.get("lineskip", "0")
    if lines.strip() != "0" or skip != int(skip) or skip < (-1 if encoding == "raw" else 0):
        raise InputError(
            f"skips {lines} lines and {skip_text} bytes, which is not supported",
            fix="save it with an attached header",
            path=header.path,
        )
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(
            f"encoding {encoding!r} is not supported",
            fix="save it as raw or gzip",
            path=header.path,
        )
    total = block.frames * block.frame_bytes
    offset = max(source.size - start - total, 0) if skip == -1 else int(skip)
    block = Block(block.shape, block.dtype, offset, block.frames, start)
    source.file.seek(start)
    return (PlainStream(source) if encoding == "raw" else DeflateStream(source)), block


def _unit(header: NrrdHeader, notes: list[str]) -> float:
    """Millimetres of one unit of length."""
    units = re.findall(r'"([^"]*)"', header.entries.get("spaceunits", ""))
    if len(set(units)) > 1 or any(unit.lower() not in UNITS_MM for unit in units):
        notes.append(f"unknown units of length {units}; taken as mm")
        return 1.0
    return UNITS_MM[units[0].lower()] if units else 1.0
