"""NIfTI-1 and NIfTI-2: single files and pairs, plain or gzip, in either byte order.

Everything is decided from the header and the file size before voxels are read; compressed files are
streamed to their checksum.
"""

from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from segkit.data.blocks import Block, check_frame, check_size, read_block
from segkit.data.files import (
    GZIP_MAGIC,
    DeflateStream,
    PlainStream,
    RegularFile,
    Stream,
    check_budget,
)
from segkit.data.label_table import parse_caret
from segkit.data.nifti_frame import NiftiFrame, choose_frame
from segkit.data.nifti_header import NiftiHeader, is_nifti, parse_header
from segkit.data.options import ReadOptions
from segkit.data.volume import Volume
from segkit.data.voxels import check_values, grey, real_part, scaled, to_native
from segkit.errors import InputError

PARTNERS = {".img": ".hdr", ".hdr": ".img", ".IMG": ".HDR", ".HDR": ".IMG"}
MAX_EXTENSIONS = 2**20  # bytes of header extensions looked at for label names


def read_nifti(path: Path, options: ReadOptions, notes: list[str]) -> Volume:
    """Read a volume; `path` may name either file of a pair. Warnings are added to `notes`.

    Raises:
        InputError: The file is damaged or ambiguous; the message names the option that decides.
    """
    head_path, data_path = find_pair(path)
    with RegularFile(head_path) as head:
        stream = _open_stream(head, notes)
        header = parse_header(_read_fixed(stream), head_path, notes)
        _check_kind(header, head_path, data_path)
        block = header.block
        if data_path is None:
            check_size(head, stream, block, notes)
            check_frame(block, options, head_path)
            area = _read_area(stream, header.offset - header.length)
            array = read_block(head, stream, block, options.frame or 0, notes)
        else:
            area = _read_area(stream, MAX_EXTENSIONS)
            stream.finish()
            array = _read_partner(data_path, block, options, notes)
    frame = NiftiFrame.from_fields(header.fields, header.version)
    choice = choose_frame(frame, header.sizes[::-1], options, head_path, notes)
    array = _finish(array, header, options, path, notes)
    kept: dict[str, object] = {"frame": choice.report}
    if choice.report["form"] is not None or not choice.geometry.is_known:
        kept["nifti"] = frame
    labels = parse_caret(_extensions(area, header, notes))
    return Volume(array, choice.geometry, path, labels=labels, header=MappingProxyType(kept))


def nifti_frames(path: Path) -> int:
    """Length of the fourth axis; 1 without it."""
    head_path, _ = find_pair(path)
    with RegularFile(head_path) as head:
        notes: list[str] = []
        return parse_header(_read_fixed(_open_stream(head, notes)), head_path, notes).frames


def find_pair(path: Path) -> tuple[Path, Path | None]:
    """Header and voxel file; the second is None for single files.

    Raises:
        InputError: One file of a pair is missing.
    """
    base = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if (suffix := PARTNERS.get(base.suffix)) is None:
        return path, None
    plain = base.with_suffix(suffix)
    packed = plain.with_name(plain.name + ".gz")
    partner = packed if packed.exists() and not plain.exists() else plain
    if path.exists() and not partner.exists():
        raise InputError(
            f"its partner {plain.name} is missing",
            fix="put the .hdr and the .img file into one folder",
            path=path,
        )
    return (path, partner) if base.suffix.lower() == ".hdr" else (partner, path)


def _open_stream(source: RegularFile, notes: list[str], *, has_header: bool = True) -> Stream:
    data = source.peek(540)
    is_named = source.path.suffix.lower() == ".gz"
    is_packed = data.startswith(GZIP_MAGIC)
    if is_named and not is_packed:
        if not (has_header and is_nifti(data)):
            raise InputError(
                f"not a gzip stream: starts with {data[:8]!r}",
                fix="rename it after what it is, or export it again",
                path=source.path,
            )
        notes.append("named .gz but not compressed; read as plain NIfTI")
    elif is_packed and not is_named:
        notes.append("compressed although its name does not end in .gz; read as gzip")
    return DeflateStream(source) if is_packed else PlainStream(source)


def _read_fixed(stream: Stream) -> bytes:
    """348 bytes, or 540 where they say so, or what there is."""
    data = bytearray(540)
    view = memoryview(data)
    got = stream.read_into(view[:348])
    if got == 348 and 540 in (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")):
        got += stream.read_into(view[348:])
    return bytes(data[:got])


def _check_kind(header: NiftiHeader, path: Path, data_path: Path | None) -> None:
    if header.is_pair and data_path is None:
        raise InputError(
            "is the header of a .hdr/.img pair, named like a single file",
            fix="rename it to .hdr beside its .img file",
            path=path,
        )
    if data_path is not None and not header.is_pair:
        raise InputError(
            f"says that its voxels are in the same file, beside {data_path.name}",
            fix="rename it to .nii",
            path=path,
        )


def _read_partner(
    path: Path, block: Block, options: ReadOptions, notes: list[str]
) -> Shaped[np.ndarray, "..."]:
    with RegularFile(path) as source:
        stream = _open_stream(source, notes, has_header=False)
        check_size(source, stream, block, notes)
        check_frame(block, options, path)
        stream.skip(block.offset)
        return read_block(source, stream, block, options.frame or 0, notes)


def _read_area(stream: Stream, count: int) -> bytes:
    """The `count` bytes of the extensions; none of them if they are implausibly many."""
    if count > MAX_EXTENSIONS:
        stream.skip(count)
        return b""
    data = bytearray(count)
    return bytes(data[: stream.read_into(memoryview(data))])


def _finish(
    array: Shaped[np.ndarray, "..."],
    header: NiftiHeader,
    options: ReadOptions,
    path: Path,
    notes: list[str],
) -> Shaped[np.ndarray, "k j i"]:
    array = to_native(array)
    if header.channels > 1:
        return grey(array, options, path, notes)
    if header.slope is not None:
        wide = np.result_type(array.dtype, np.float32)
        check_budget(path, array.size * wide.itemsize, options.max_gb)
    array = scaled(array, header.slope, header.inter, path)
    array = real_part(array, options, path, notes)
    return check_values(array, options, path, notes)


def _extensions(area: bytes, header: NiftiHeader, notes: list[str]) -> bytes:
    """Contents of all header extensions, one after the other; damaged ones are skipped."""
    found, position = b"", 4
    if not area[:1].strip(b"\0"):
        return found
    order: Literal["little", "big"] = "big"
    if header.fields.dtype["sizeof_hdr"].str[0] == "<":
        order = "little"
    while position < len(area):
        size = int.from_bytes(area[position : position + 4], order)
        if size < 8 or position + size > len(area):
            break
        found += area[position + 8 : position + size]
        position += size
    if position == 4 or area[position:].strip(b"\0"):
        notes.append("damaged header extension skipped")
    return found
