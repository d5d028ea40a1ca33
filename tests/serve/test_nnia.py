"""The array codec of the nnInteractive wire."""

import struct

import numpy as np
import pytest

from segkit.client.codec import CodecError, TooLargeError
from segkit.serve.nnia import LZ4, declared_bytes, pack, unpack

GOLDEN = bytes.fromhex(
    "4e4e4941010102 05696e743136 0200000000000000 0300000000000000 01000000 0c00000000000000"
    "2c00000000000000 050107020c0000000c0000002c0000000000000000000500000000000000000000000100"
    "020003000400ffff".replace(" ", "")
)


def test_golden_bytes() -> None:
    array = np.array([[0, 1, 2], [3, 4, -1]], np.int16)
    np.testing.assert_array_equal(unpack(GOLDEN, max_bytes=12), array)
    packed = pack(array)
    assert packed[:49] == GOLDEN[:49], "header and lengths; chunk bytes differ between versions"


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float32", "float64", "int64"])
@pytest.mark.parametrize("codec", [1, LZ4])
def test_round_trip_with_the_reference(dtype: str, codec: int) -> None:
    reference = pytest.importorskip("nnInteractive.inference.remote.serialization")
    array = np.random.default_rng(0).integers(0, 2, size=(3, 5, 7)).astype(dtype)
    np.testing.assert_array_equal(reference.unpack_array(pack(array, codec)), array)
    found = unpack(reference.pack_array(array), max_bytes=array.nbytes)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


def test_empty_arrays_are_empty_bodies() -> None:
    assert pack(np.zeros((0, 3), np.uint8)) == b""


def header(*shape: int, dtype: bytes = b"uint8", codec: int = 1, version: int = 1) -> bytes:
    head = struct.pack("<4sBBBB", b"NNIA", version, codec, len(shape), len(dtype)) + dtype
    return head + struct.pack(f"<{len(shape)}q", *shape)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends"),
        (GOLDEN[:6], "ends"),
        (b"NOPE" + GOLDEN[4:], "does not start"),
        (GOLDEN[:-1], "ends"),
        (GOLDEN + b"x", "follow"),
        (header(2, version=9), "version 9"),
        (header(2, codec=7), "unknown codec"),
        (header(2, dtype=b"O"), "not allowed"),
        (header(2, dtype=b"object"), "not allowed"),
        (header(-2), "every side"),
        (header(0, 2), "every side"),
        (header(*[1] * 9), "9 axes"),
        (header(10) + struct.pack("<I", 5), "5"),
        (header(10) + struct.pack("<IQQ", 1, 99, 20) + b"x" * 20, "declares 99"),
        (header(10) + struct.pack("<IQQ", 1, 10, 4) + b"x" * 4, "too short"),
        (header(10) + struct.pack("<IQQ", 1, 10, 40) + b"x" * 40, "chunk"),
    ],
)
def test_damaged_bytes_are_refused_in_words(data: bytes, says: str) -> None:
    with pytest.raises(CodecError, match=says):
        unpack(data, max_bytes=2**20)


@pytest.mark.parametrize("shape", [(2**30, 2**30), (2**31 - 1,) * 5, (2**20 + 1,)])
def test_declared_sizes_are_bounded_before_allocation(shape: tuple[int, ...]) -> None:
    with pytest.raises(TooLargeError, match="at most 1048576"):
        unpack(header(*shape) + struct.pack("<I", 1), max_bytes=2**20)


def test_bombs_are_refused_by_their_header() -> None:
    zeros = pack(np.zeros(2**26, np.uint8))
    assert len(zeros) < 1000
    assert declared_bytes(zeros) == 2**26
    with pytest.raises(TooLargeError):
        unpack(zeros, max_bytes=2**20)


def test_every_cut_is_refused() -> None:
    packed = pack(np.arange(300, dtype=np.int16))
    for end in range(len(packed)):
        with pytest.raises(CodecError):
            unpack(packed[:end], max_bytes=2**20)


def test_random_damage_never_crashes() -> None:
    rng = np.random.default_rng(0)
    packed = bytearray(pack(np.arange(300, dtype=np.int16)))
    for _ in range(500):
        data = bytearray(packed)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            assert unpack(data, max_bytes=2**16).nbytes <= 2**16
        except CodecError:
            continue
