"""MetaImage: .mha, and .mhd with its .raw or .zraw file.

Source: the MetaIO documentation of ITK ("MetaIO/Documentation", tag descriptions).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from segkit.data.blocks import Block, check_frame, check_size, read_block
from segkit.data.files import DeflateStream, PlainStream, RegularFile, Stream
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
from segkit.geometry import RAS_TO_LPS, Geometry

DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
MATRIX_NAMES = ("transformmatrix", "rotation", "orientation")
ORIGIN_NAMES = ("offset", "origin", "position")


def read_metaimage(path: Path, options: ReadOptions, notes: list[str]) -> Volume:
    """Read a volume. Warnings are added to `notes`.

    Raises:
        InputError: The file is damaged or ambiguous; the message names the option that decides.
    """
    entries, start = _read_header(path)
    block, sizes = _block(entries, path)
    entry = entries["elementdatafile"]
    is_local = entry.upper() == "LOCAL"
    with RegularFile(path if is_local else data_file(path, entry)) as source:
        stream, block = _open(source, entries, block, start if is_local else 0, path)
        check_size(source, stream, block, notes)
        check_frame(block, options, path)
        stream.skip(block.offset)
        array = read_block(source, stream, block, options.frame or 0, notes)
    i, j, k = (*sizes[:3], 1)[:3]
    array = to_native(array)
    if array.ndim > len(sizes[:3]):
        array = grey(array.reshape(k, j, i, -1), options, path, notes)
    array = check_values(array.reshape(k, j, i), options, path, notes)
    return Volume(array, _geometry(entries, sizes, options, path, notes), path)


def metaimage_frames(path: Path) -> int:
    """Length of the fourth axis; 1 without it."""
    return _block(_read_header(path)[0], path)[0].frames


def is_metaimage(data: bytes) -> bool:
    """Whether the bytes start like a MetaImage header."""
    name = data.lstrip()[:40].split(b"=")[0].strip().lower()
    return name in (b"objecttype", b"ndims", b"comment", b"objectsubtype") and b"=" in data[:200]


def _read_header(path: Path) -> tuple[Mapping[str, str], int]:
    """Entries by lower-case name, and the byte behind the last one."""
    with RegularFile(path) as source:
        data = source.peek(MAX_HEADER)
    entries: dict[str, str] = {}
    position = 0
    while "elementdatafile" not in entries:
        end = data.find(b"\n", position)
        line = data[position : end if end >= 0 else len(data)].decode("utf-8", errors="replace")
        name, sign, value = line.partition("=")
        if sign:
            entries[name.strip().lower()] = value.strip()
        if end < 0 and "elementdatafile" not in entries:
            raise InputError(
                "truncated: ends inside its header", fix="copy the file again", path=path
            )
        if line.strip() and not sign:
            raise InputError(f"MetaImage header with the line {line[:60]!r}", fix=EXPORT, path=path)
        position = end + 1 if end >= 0 else len(data)
    if not entries["elementdatafile"]:
        raise InputError("ElementDataFile is empty", fix=EXPORT, path=path)
    if (kind := entries.get("objecttype", "Image")) != "Image":
        raise InputError(f"is a MetaIO {kind}, expected an image", fix="export it", path=path)
    return entries, position


def _block(entries: Mapping[str, str], path: Path) -> tuple[Block, list[int]]:
    """The voxels without their place in the file, and the sizes in file order."""
    for name in ("ndims", "dimsize", "elementtype"):
        if name not in entries:
            raise InputError(f"MetaImage header without {name}", fix=EXPORT, path=path)
    count = whole_numbers(entries["ndims"], 1, "NDims", path)[0]
    if count not in (2, 3, 4):
        raise InputError(f"NDims is {count}, expected 2, 3 or 4", fix=EXPORT, path=path)
    sizes = whole_numbers(entries["dimsize"], count, "DimSize", path)
    channels = whole_numbers(
        entries.get("elementnumberofchannels", "1"), 1, "ElementNumberOfChannels", path
    )[0]
    kind = entries["elementtype"].upper()
    if kind not in DTYPES or channels not in (1, 3, 4):
        raise InputError(
            f"{channels} x {kind} voxels not supported",
            fix="convert it to MET_SHORT or MET_FLOAT",
            path=path,
        )
    if not _is_true(entries.get("binarydata", "True")):
        raise InputError("its voxels are text", fix="save it with BinaryData = True", path=path)
    is_big = entries.get("binarydatabyteordermsb", entries.get("elementbyteordermsb", "False"))
    dtype = np.dtype(DTYPES[kind]).newbyteorder(">" if _is_true(is_big) else "<")
    shape = tuple(sizes[:3][::-1]) + ((channels,) if channels > 1 else ())
    return Block(shape, dtype, frames=sizes[3] if count == 4 else 1), sizes


def _open(
    source: RegularFile, entries: Mapping[str, str], block: Block, start: int, path: Path
) -> tuple[Stream, Block]:
    """Stream of the voxels, and the block with its place in it."""
    header_size = numbers(entries.get("headersize", "0"), 1, "HeaderSize", path)[0]
    is_packed = _is_true(entries.get("compresseddata", "False"))
    if header_size != int(header_size) or header_size < -1 or (is_packed and header_size):
        raise InputError(f"HeaderSize is {header_size:g}", fix=EXPORT, path=path)
    if header_size == -1:
        start = max(source.size - block.frames * block.frame_bytes, start)
    elif header_size:
        start = int(header_size)
    block = Block(block.shape, block.dtype, 0, block.frames, start)
    source.file.seek(start)
    return (DeflateStream(source, wbits=15) if is_packed else PlainStream(source)), block


def _geometry(
    entries: Mapping[str, str],
    sizes: list[int],
    options: ReadOptions,
    path: Path,
    notes: list[str],
) -> Geometry:
    count = len(sizes)
    i, j, k = (*sizes[:3], 1)[:3]
    text = entries.get("elementspacing", entries.get("elementsize"))
    spacing = None if text is None else numbers(text, count, "ElementSpacing", path)[:3]
    matrix = next((entries[name] for name in MATRIX_NAMES if name in entries), None)
    origin = next((entries[name] for name in ORIGIN_NAMES if name in entries), None)
    if spacing is None or count == 2 or (matrix is None and origin is None):
        return unframed((k, j, i), tuple(spacing) if spacing else None, options, path, notes)
    affine: Float[np.ndarray, "4 4"] = np.eye(4)
    if matrix is not None:
        directions = numbers(matrix, count * count, "TransformMatrix", path)
        # each row holds the direction of one voxel axis
        affine[:3, :3] = np.array(directions).reshape(count, count)[:3, :3].T
    affine[:3, :3] *= spacing
    if origin is not None:
        affine[:3, 3] = numbers(origin, count, "Offset", path)[:3]
    return framed((k, j, i), RAS_TO_LPS @ affine, options, path)


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "t", "yes")
