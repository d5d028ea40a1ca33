"""The array codec of the nnInteractive v2 wire: "NNIA", version 1, chunks of blosc2.

Everything that a header declares is checked before memory is taken. The layout is in
`docs/guide/server.md`.
"""

import math
import os
import struct
from typing import Any

import blosc2
import numpy as np

from segkit.client.codec import DTYPES, Buffer, CodecError, TooLargeError

MAGIC = b"NNIA"
VERSION = 1
ZSTD, LZ4 = 1, 2
MAX_AXES = 5
CHUNK_BYTES = 2**30
_CODECS = {ZSTD: blosc2.Codec.ZSTD, LZ4: blosc2.Codec.LZ4}
_SMALLEST_CHUNK = 16
_THREADS = min(4, os.cpu_count() or 1)


def declared_bytes(data: Buffer) -> int:
    """Size of the array that a message declares; nothing is allocated."""
    dtype, shape = read_header(_Reader(memoryview(data)))
    return math.prod(shape) * dtype.itemsize


def pack(array: np.ndarray, codec: int = ZSTD) -> bytes:
    """Encode an array; an empty one gives no bytes, as the wire cannot hold it."""
    if array.size == 0:
        return b""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    name = array.dtype.name.encode("ascii")
    pieces = [struct.pack("<4sBBBB", MAGIC, VERSION, codec, array.ndim, len(name)), name]
    pieces.append(struct.pack(f"<{array.ndim}q", *array.shape))
    values = array.reshape(-1).view(np.uint8).data
    starts = range(0, len(values), CHUNK_BYTES)
    pieces.append(struct.pack("<I", len(starts)))
    # masks shrink best as they are, images with their bits sorted
    is_mask = array.dtype.itemsize == 1
    filters = [blosc2.Filter.NOFILTER if is_mask else blosc2.Filter.BITSHUFFLE]
    for start in starts:
        chunk = values[start : start + CHUNK_BYTES]
        packed = blosc2.compress2(
            chunk,
            typesize=array.dtype.itemsize,
            codec=_CODECS[codec],
            clevel=3 if codec == ZSTD else 1,
            filters=filters,
            nthreads=_THREADS,
        )
        pieces += [struct.pack("<QQ", len(chunk), len(packed)), packed]
    return b"".join(pieces)


def unpack(data: Buffer, *, max_bytes: int) -> np.ndarray:
    """Decode an array.

    Raises:
        TooLargeError: The header declares more than `max_bytes`.
        CodecError: Anything else that is not as it should be.
    """
    reader = _Reader(memoryview(data))
    dtype, shape = read_header(reader)
    total = math.prod(shape) * dtype.itemsize
    if total > max_bytes:
        raise TooLargeError(f"the array needs {total} bytes, at most {max_bytes} are allowed")
    (count,) = reader.take("<I")
    if count != -(-total // CHUNK_BYTES):
        raise CodecError(f"{total} bytes need {-(-total // CHUNK_BYTES)} chunks, got {count}")
    chunks = [_chunk(reader, min(CHUNK_BYTES, total - n * CHUNK_BYTES)) for n in range(count)]
    if reader.rest:
        raise CodecError(f"{reader.rest} bytes follow the last chunk")
    out = np.empty(total, dtype=np.uint8)
    for number, chunk in enumerate(chunks):
        start = number * CHUNK_BYTES
        _inflate(chunk, out[start : start + CHUNK_BYTES])
    values = out.view(dtype)
    if dtype == np.bool_ and out.size and out.max() > 1:
        raise CodecError("bool values must be 0 or 1")
    return values.reshape(shape)


class _Reader:
    """Walk through bytes; never past their end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    @property
    def rest(self) -> int:
        return len(self._data) - self._at

    def take(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)))

    def bytes(self, count: int) -> memoryview:
        if count > self.rest:
            raise CodecError(f"the body ends {count - self.rest} bytes too early")
        self._at += count
        return self._data[self._at - count : self._at]


def read_header(reader: "_Reader") -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape that the bytes declare, checked.

    Raises:
        CodecError: They are damaged, or not allowed.
    """
    magic, version, codec, axes, length = reader.take("<4sBBBB")
    if magic != MAGIC:
        raise CodecError("the body does not start with NNIA")
    if version != VERSION:
        raise CodecError(
            f"NNIA version {version} is not version {VERSION}, which this server reads"
        )
    if codec not in _CODECS:
        raise CodecError(f"unknown codec {codec}; known: {sorted(_CODECS)}")
    if axes > MAX_AXES:
        raise CodecError(f"{axes} axes, at most {MAX_AXES} are allowed")
    name = bytes(reader.bytes(length)).decode("ascii", errors="replace")
    if name not in DTYPES:
        raise CodecError(f"the array has a type that is not allowed; allowed: {DTYPES}")
    shape = reader.take(f"<{axes}q")
    if any(not 0 < size < 2**31 for size in shape):
        raise CodecError("every side of the array must be from 1 to 2147483647")
    return np.dtype(name), shape


def _chunk(reader: _Reader, expected: int) -> memoryview:
    size, packed = reader.take("<QQ")
    if size != expected:
        raise CodecError(f"a chunk declares {size} bytes, the shape asks for {expected}")
    chunk = reader.bytes(packed)
    if packed < _SMALLEST_CHUNK:
        raise CodecError(f"a chunk of {packed} bytes is too short")
    try:
        inside, own, _ = blosc2.get_cbuffer_sizes(chunk)
    except (ValueError, RuntimeError, OverflowError) as error:
        raise CodecError("a chunk is no blosc2 data") from error
    if inside != size or own != packed:
        raise CodecError(f"a chunk says it holds {inside} bytes, its frame {size}")
    return chunk


def _inflate(chunk: memoryview, out: np.ndarray) -> None:
    try:
        blosc2.decompress2(chunk, dst=out, nthreads=_THREADS)
    except (ValueError, RuntimeError, TypeError) as error:
        raise CodecError("a chunk is damaged") from error
