"""Arrays as bytes: a JSON header, then the values, raw or deflated in chunks.

    b"SKA1" | length of the header, u32 | header | values

The header holds "dtype", "shape" (array order) and "encoding": "raw" (the values in C order, little
endian), "zlib" (chunks, each a u32 length and a zlib stream of `CHUNK_BYTES` values' bytes, the
last one shorter) or "bits" (for bool: packed bits in one zlib stream, most significant bit first).
"""

import json
import struct
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = b"SKA1"
CONTENT_TYPE = "application/x-segkit-array"
DTYPES = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64",
)  # fmt: skip
ENCODINGS = ("raw", "zlib", "bits")
CHUNK_BYTES = 2**22
MAX_HEADER, MAX_AXES = 4096, 5
MAX_DEFLATE_RATIO = 1032
"""DEFLATE cannot shrink further than this; who declares more lies."""
_LEVEL = 1
_THREADS = 4

Buffer = bytes | bytearray | memoryview


class CodecError(ValueError):
    """Bytes that are no array, or not the one they declare."""


class TooLargeError(CodecError):
    """An array larger than the receiver allows, by declaration or by its compression ratio."""


@dataclass(frozen=True)
class Header:
    """What the bytes say about the array before anything is allocated."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    encoding: str
    start: int

    @property
    def count(self) -> int:
        """Number of values."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def n_bytes(self) -> int:
        """Bytes of the array once decoded."""
        return self.count * self.dtype.itemsize


def encode(array: np.ndarray, encoding: str = "raw") -> list[bytes | memoryview]:
    """Pieces of the message, to be sent one after another; "raw" copies nothing.

    Raises:
        CodecError: The type or the encoding is not allowed, or "bits" is asked of other than bool.
    """
    if array.dtype.name not in DTYPES:
        raise CodecError(f"arrays of type {array.dtype} cannot be sent; allowed: {DTYPES}")
    if encoding not in ENCODINGS or (encoding == "bits" and array.dtype != np.bool_):
        raise CodecError(f"encoding {encoding!r} does not fit {array.dtype}; known: {ENCODINGS}")
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    about = {"dtype": array.dtype.name, "shape": list(array.shape), "encoding": encoding}
    header = json.dumps(about, separators=(",", ":")).encode()
    head = MAGIC + struct.pack("<I", len(header)) + header
    if array.size == 0:
        return [head]
    if encoding == "bits":
        return [head, zlib.compress(np.packbits(array).tobytes(), _LEVEL)]
    values = array.reshape(-1).view(np.uint8).data
    if encoding == "raw":
        return [head, values]
    chunks = [values[at : at + CHUNK_BYTES] for at in range(0, len(values), CHUNK_BYTES)]
    pieces: list[bytes | memoryview] = [head]
    for packed in _each(lambda chunk: zlib.compress(chunk, _LEVEL), chunks):
        pieces += [struct.pack("<I", len(packed)), packed]
    return pieces


def read_header(data: Buffer) -> Header:
    """Read and check the header.

    Raises:
        CodecError: It is damaged, or names a type, shape or encoding that is not allowed.
    """
    if bytes(data[:4]) != MAGIC or len(data) < 8:
        raise CodecError(f"the body does not start with {MAGIC.decode()}")
    (length,) = struct.unpack_from("<I", data, 4)
    if length > MAX_HEADER or len(data) < 8 + length:
        raise CodecError(f"the array header has {length} bytes, at most {MAX_HEADER} are allowed")
    try:
        about = json.loads(bytes(data[8 : 8 + length]))
        dtype, shape, encoding = about["dtype"], about["shape"], about["encoding"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CodecError(
            "the array header is no JSON object with dtype, shape, encoding"
        ) from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CodecError(f"the array has a type that is not allowed; allowed: {DTYPES}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        raise CodecError(f"the shape must be a list of at most {MAX_AXES} numbers")
    if any(type(size) is not int or not 0 <= size < 2**31 for size in shape):
        raise CodecError("the shape must hold whole numbers from 0 to 2147483647")
    if not isinstance(encoding, str) or encoding not in ENCODINGS:
        raise CodecError(f"unknown encoding; known: {ENCODINGS}")
    if encoding == "bits" and dtype != "bool":
        raise CodecError(f"encoding 'bits' is for bool, not for {dtype}")
    return Header(np.dtype(dtype), tuple(shape), encoding, 8 + length)


def decode(data: Buffer, *, max_bytes: int) -> np.ndarray:
    """Array of a message; decided from its header before anything is allocated.

    The result of "raw" shares memory with `data`.

    Raises:
        TooLargeError: More than `max_bytes`, or more than its compressed bytes can hold.
        CodecError: The bytes are not what the header declares.
    """
    header = read_header(data)
    body = memoryview(data)[header.start :]
    _check_size(header, len(body), max_bytes)
    if header.encoding == "raw":
        if len(body) != header.n_bytes:
            raise CodecError(f"the array needs {header.n_bytes} bytes, the body has {len(body)}")
        values = np.frombuffer(body, dtype=header.dtype, count=header.count)
        return _checked_bool(values).reshape(header.shape)
    if header.encoding == "bits":
        packed = _inflate(body, -(-header.count // 8)) if header.count else b""
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=header.count)
        return bits.view(np.bool_).reshape(header.shape)
    out = np.empty(header.n_bytes, dtype=np.uint8)
    chunks = _chunks(body, header.n_bytes)

    def fill(place: tuple[int, memoryview]) -> None:
        at, chunk = place
        size = min(CHUNK_BYTES, header.n_bytes - at)
        out[at : at + size] = np.frombuffer(_inflate(chunk, size), np.uint8)

    for _ in _each(fill, chunks):
        pass
    return _checked_bool(out.view(header.dtype)).reshape(header.shape)


def _check_size(header: Header, body: int, max_bytes: int) -> None:
    if header.n_bytes > max_bytes:
        raise TooLargeError(
            f"the array needs {header.n_bytes} bytes, at most {max_bytes} are allowed"
        )
    payload = -(-header.count // 8) if header.encoding == "bits" else header.n_bytes
    if header.encoding != "raw" and payload > MAX_DEFLATE_RATIO * body:
        raise TooLargeError(f"{body} compressed bytes cannot hold the declared {header.n_bytes}")


def _chunks(body: memoryview, total: int) -> list[tuple[int, memoryview]]:
    """Offset in the array and compressed bytes of every chunk."""
    found, position = [], 0
    for at in range(0, total, CHUNK_BYTES):
        if position + 4 > len(body):
            raise CodecError("the body ends before its last chunk")
        (length,) = struct.unpack_from("<I", body, position)
        position += 4
        if position + length > len(body):
            raise CodecError("the body ends inside a chunk")
        found.append((at, body[position : position + length]))
        position += length
    if position != len(body):
        raise CodecError(f"{len(body) - position} bytes follow the last chunk")
    return found


def _inflate(packed: memoryview, size: int) -> bytes:
    """Inflate one stream that must give exactly `size` bytes; never makes more."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise CodecError("a compressed chunk is damaged") from error
    if len(data) != size or not stream.eof or stream.unused_data:
        raise CodecError(f"a compressed chunk does not hold the {size} bytes it should")
    return data


def _checked_bool(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.bool_ and values.size and values.view(np.uint8).max() > 1:
        raise CodecError("bool values must be 0 or 1")
    return values


def _each(function: Callable[[Any], Any], items: list[Any]) -> Iterable[Any]:
    """Apply in order; several threads for many items, since zlib works without the lock."""
    if len(items) < _THREADS:
        return map(function, items)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))
