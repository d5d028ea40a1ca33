"""The fixed part of a NIfTI-1 or NIfTI-2 file, checked before anything is allocated.

Source: "NIfTI-1 Data Format" and "NIfTI-2 Data Format" (NIMH); nibabel provides the field layout.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.nifti1 import header_dtype as NIFTI_1
from nibabel.nifti2 import header_dtype as NIFTI_2

from segkit.data.blocks import Block
from segkit.errors import InputError

Order = Literal["<", ">"]

LAYOUTS = {348: NIFTI_1, 540: NIFTI_2}
SINGLE = {348: b"n+1", 540: b"n+2"}
PAIR = {348: b"ni1", 540: b"ni2"}
DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 32: "c8", 64: "f8", 128: "rgb24", 256: "i1", 512: "u2",
    768: "u4", 1024: "i8", 1280: "u8", 1792: "c16", 2304: "rgba32",
}  # fmt: skip
COLOURS = {"rgb24": 3, "rgba32": 4}
UNREADABLE = {0: "unknown", 1: "1-bit", 1536: "128-bit float", 2048: "256-bit complex"}
EXPORT = "export the file again"


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """What a reader needs from the header.

    `sizes` are the voxels along (i, j, k); `frames` the length of the fourth axis. `dtype` is that
    of one voxel or, with `channels` > 1, of one colour. `slope` is None where voxels are not
    scaled. `fields` is the raw record in its own byte order.
    """

    version: int
    is_pair: bool
    fields: np.void
    sizes: tuple[int, int, int]
    frames: int
    dtype: np.dtype
    channels: int
    offset: int
    slope: float | None
    inter: float

    @property
    def length(self) -> int:
        """Bytes of the fixed part."""
        return 348 if self.version == 1 else 540

    @property
    def block(self) -> Block:
        """Where the voxels lie."""
        shape = self.sizes[::-1] if self.channels == 1 else (*self.sizes[::-1], self.channels)
        return Block(shape, self.dtype, self.offset, self.frames)


def parse_header(data: bytes, path: Path, notes: list[str]) -> NiftiHeader:
    """Check the first 540 (or fewer) bytes of a file and collect remarkable facts in `notes`.

    Raises:
        InputError: The bytes are no NIfTI header, or a field has no usable value.
    """
    length, order = _length(data, path)
    if len(data) < length:
        raise InputError(
            f"truncated: ends at byte {len(data)} of the {length}-byte header",
            fix="copy the file again",
            path=path,
        )
    fields = np.frombuffer(data[:length], LAYOUTS[length].newbyteorder(order))[0]
    is_pair = _is_pair(bytes(fields["magic"]), length, path)
    sizes, frames = _sizes(fields["dim"], path)
    dtype, channels = _dtype(fields, order, path, notes)
    slope, inter = _scaling(fields, path, notes)
    offset = _offset(fields["vox_offset"], length, is_pair, path)
    version = 1 if length == 348 else 2
    return NiftiHeader(
        version, is_pair, fields, sizes, frames, dtype, channels, offset, slope, inter
    )


def is_nifti(data: bytes) -> bool:
    """Whether the bytes start like a NIfTI file or the header of a pair."""
    sizes = [int.from_bytes(data[:4], order) for order in ("little", "big")]
    magic = data[344:347] if 348 in sizes else data[4:7]
    return any(size in LAYOUTS for size in sizes) and magic in {
        *SINGLE.values(),
        *PAIR.values(),
    }


def _length(data: bytes, path: Path) -> tuple[int, Order]:
    little, big = (int.from_bytes(data[:4], order) for order in ("little", "big"))
    if little in LAYOUTS:
        return little, "<"
    if big in LAYOUTS:
        return big, ">"
    raise InputError(
        f"not a NIfTI file: header size {little:,}, expected 348 or 540", fix=EXPORT, path=path
    )


def _is_pair(magic: bytes, length: int, path: Path) -> bool:
    if magic[:3] == PAIR[length]:
        return True
    if magic[:3] == SINGLE[length]:
        return False
    if not magic.strip(b"\0"):
        raise InputError(
            "is an Analyze 7.5 header, which does not say left from right",
            fix="convert it to NIfTI with the tool that knows its orientation",
            path=path,
        )
    raise InputError(
        f"not a NIfTI file: magic {magic!r}, expected {SINGLE[length]!r} or {PAIR[length]!r}",
        fix=EXPORT,
        path=path,
    )


def _sizes(dim: np.ndarray, path: Path) -> tuple[tuple[int, int, int], int]:
    """Voxels along (i, j, k) and the number of frames."""
    count = int(dim[0])
    if not 1 <= count <= 7:
        raise InputError(f"ndim {count} not in 1-7", fix=EXPORT, path=path)
    sizes = [int(size) for size in dim[1 : count + 1]]
    if min(sizes) < 1:
        raise InputError(f"has the axis sizes {sizes}, all must be >= 1", fix=EXPORT, path=path)
    if count == 1:
        raise InputError(
            f"has one axis of {sizes[0]} values, expected 2 or 3", fix="is it an image?", path=path
        )
    if any(size > 1 for size in sizes[4:]):
        raise InputError(
            f"has vectors or more than four axes ({' x '.join(map(str, sizes))})",
            fix="export one scalar component",
            path=path,
        )
    sizes = [*sizes, 1, 1][:4]
    return (sizes[0], sizes[1], sizes[2]), sizes[3]


def _dtype(fields: np.void, order: Order, path: Path, notes: list[str]) -> tuple[np.dtype, int]:
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    if code not in DTYPES:
        known = UNREADABLE.get(code, f"unknown (code {code})")
        raise InputError(
            f"{known} voxels not supported", fix="convert it to int16 or float32", path=path
        )
    channels = COLOURS.get(DTYPES[code], 1)
    name = "u1" if channels > 1 else DTYPES[code]
    dtype = np.dtype(name).newbyteorder(order)
    if bits != (expected := 8 * dtype.itemsize * channels):
        notes.append(f"bitpix is {bits}, its data type {DTYPES[code]} has {expected}; type used")
    return dtype, channels


def _scaling(fields: np.void, path: Path, notes: list[str]) -> tuple[float | None, float]:
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0:
        return None, 0.0
    if not math.isfinite(slope):
        notes.append(f"scl_slope is {slope}; voxels left unscaled")
        return None, 0.0
    if not math.isfinite(inter):
        raise InputError(f"scl_inter is {inter} beside scl_slope {slope:g}", fix=EXPORT, path=path)
    return (None, 0.0) if (slope, inter) == (1.0, 0.0) else (slope, inter)


def _offset(value: np.generic, length: int, is_pair: bool, path: Path) -> int:
    offset, least = float(value), 0 if is_pair else length + 4
    if not (math.isfinite(offset) and offset >= least and offset == int(offset)):
        raise InputError(
            f"vox_offset is {offset:g}, expected a whole number >= {least}", fix=EXPORT, path=path
        )
    return int(offset)
