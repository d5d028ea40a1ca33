"""The array codec of the segkit protocol."""

import json
import struct
import zlib

import numpy as np
import pytest

from segkit.client.codec import (
    CHUNK_BYTES,
    DTYPES,
    MAGIC,
    CodecError,
    TooLargeError,
    decode,
    encode,
    read_header,
)


def message(array: np.ndarray, encoding: str = "raw") -> bytearray:
    return bytearray(b"".join(encode(array, encoding)))


def made(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + body


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoding", ["raw", "zlib"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (), (2, 0, 3)])
def test_round_trip(dtype: str, encoding: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, size=shape).astype(dtype)
    found = decode(message(array, encoding), max_bytes=10**6)
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (8,), (0,), (1,)])
def test_masks_as_bits(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) > 0.5
    np.testing.assert_array_equal(decode(message(mask, "bits"), max_bytes=100), mask)


def test_several_chunks_and_other_memory_orders() -> None:
    array = np.arange(CHUNK_BYTES + 99, dtype=np.uint16).reshape(-1, 1)[::-1]
    np.testing.assert_array_equal(decode(message(array, "zlib"), max_bytes=10**8), array)
    swapped = np.arange(5, dtype=">i4")
    np.testing.assert_array_equal(decode(message(swapped), max_bytes=100), swapped)


def test_raw_arrays_share_memory_so_that_they_can_be_overwritten() -> None:
    data = message(np.ones(50, np.uint8))
    decode(data, max_bytes=50).fill(0)
    assert data.count(1) == 0


GOOD = {"dtype": "uint8", "shape": [4], "encoding": "raw"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "does not start"),
        (MAGIC, "does not start"),
        (b"\x93NUMPY", "does not start"),
        (MAGIC + struct.pack("<I", 10**6), "at most 4096"),
        (made(b"not json"), "no JSON"),
        (made([]), "no JSON"),
        (made(b"[" * 4000), "no JSON"),
        (made({**GOOD, "dtype": "object"}), "not allowed"),
        (made({**GOOD, "dtype": "O"}), "not allowed"),
        (made({**GOOD, "dtype": 5}), "not allowed"),
        (made({**GOOD, "shape": [-1]}), "whole numbers"),
        (made({**GOOD, "shape": [2.5]}), "whole numbers"),
        (made({**GOOD, "shape": [True]}), "whole numbers"),
        (made({**GOOD, "shape": "4"}), "list"),
        (made({**GOOD, "shape": [1] * 9}), "at most 5"),
        (made({**GOOD, "encoding": "pickle"}), "unknown encoding"),
        (made({**GOOD, "encoding": "bits"}), "for bool"),
        (made(GOOD, b"123"), "needs 4 bytes"),
        (made(GOOD, b"12345"), "needs 4 bytes"),
        (made({**GOOD, "dtype": "bool"}, b"\x00\x01\x02\x00"), "must be 0 or 1"),
        (made({**GOOD, "encoding": "zlib"}, b"\x05\x00\x00\x00xx"), "ends inside"),
        (made({**GOOD, "encoding": "zlib"}, b"x"), "ends before"),
        (made({**GOOD, "encoding": "zlib"}, b"\x02\x00\x00\x00xx"), "damaged"),
    ],
)
def test_damaged_messages_are_refused_in_words_s10_s26(data: bytes, says: str) -> None:
    with pytest.raises(CodecError, match=says):
        decode(data, max_bytes=100)


@pytest.mark.parametrize("size", [3, 5])
def test_a_chunk_of_another_size_is_refused(size: int) -> None:
    packed = zlib.compress(bytes(size))
    body = struct.pack("<I", len(packed)) + packed
    with pytest.raises(CodecError, match="does not hold the 4 bytes"):
        decode(made({**GOOD, "encoding": "zlib"}, body), max_bytes=100)


def test_sizes_are_bounded_before_allocation_s26() -> None:
    for shape in ([2**31 - 1] * 5, [101]):
        with pytest.raises(TooLargeError, match="at most 100"):
            decode(made({**GOOD, "shape": shape}), max_bytes=100)


@pytest.mark.parametrize(("dtype", "encoding"), [("uint8", "zlib"), ("bool", "bits")])
def test_bombs_are_refused_by_their_ratio_s10(dtype: str, encoding: str) -> None:
    header = {"dtype": dtype, "shape": [10**9], "encoding": encoding}
    with pytest.raises(TooLargeError, match="cannot hold"):
        decode(made(header, b"x" * 1000), max_bytes=2**40)


def test_only_plain_types_are_sent() -> None:
    with pytest.raises(CodecError, match="cannot be sent"):
        encode(np.array([None]))
    with pytest.raises(CodecError, match="does not fit"):
        encode(np.zeros(3, np.uint8), "bits")


def test_headers_are_read_alone() -> None:
    found = read_header(message(np.zeros((2, 3), np.int16)))
    assert (found.shape, found.n_bytes, found.encoding) == ((2, 3), 12, "raw")
