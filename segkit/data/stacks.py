"""Model-ready slices of one case in one file, compressed slice by slice with blosc2.

Layout of a file: 8 bytes magic; the compressed image and label of each slice, one after the other;
a footer in JSON with the position, length and CRC-32 of each; 16 bytes that tell where the footer
is and what its CRC-32 is. Only the pixels that the slice covers are stored, not the padding. Images
are uint8 where the source was uint8 (tolerance 1/510), else uint16 (tolerance 1/131070). Nothing
but numbers is stored: no names, no paths, no pickled objects.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import blosc2
import numpy as np
from jaxtyping import Float, Int, Shaped

MAGIC = b"SEGKITS1"
_TAIL = struct.Struct("<IIQ")  # length and CRC-32 of the footer, CRC-32 of this and the magic
_MOST_FOOTER_BYTES = 64 << 20
_MAX = {"uint8": 255, "uint16": 65535}


class StackError(Exception):
    """A cached file is damaged; it is built again from its sources."""


@dataclass(frozen=True, slots=True)
class StackFacts:
    """What all slices share. `content` is the (height, width) the slices cover of `size`.

    `spacing_mm` is the distance of (slices, rows, columns) of the model input, in voxels of the
    source where the file does not say.
    """

    size: int
    content: tuple[int, int]
    channels: int
    spacing_mm: tuple[float, float, float]
    image_dtype: str
    label_dtype: str


@dataclass(frozen=True, slots=True)
class StackSlice:
    """One slice as stored: `image` in units of its data type, `label` class or instance index."""

    image: Shaped[np.ndarray, "c h w"]
    label: Shaped[np.ndarray, "h w"]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """An opened file: facts, `foreground` (labelled pixels per slice) and the table of chunks.

    It holds no file handle, so it travels to workers; each read opens the file anew.
    """

    path: Path
    facts: StackFacts
    foreground: Int[np.ndarray, " slices"]
    chunks: Int[np.ndarray, "slices 6"]  # offset, length, CRC-32 of image and of label

    def __len__(self) -> int:
        return len(self.foreground)

    def image(self, index: int) -> Float[np.ndarray, "c h w"]:
        """Slice `index` as float32 in [0, 1], without padding."""
        facts = self.facts
        stored = self._read(index, 0, (facts.channels, *facts.content), facts.image_dtype)
        return stored * np.float32(1 / _MAX[facts.image_dtype])

    def label(self, index: int) -> Int[np.ndarray, "h w"]:
        """Slice `index` of the label as int64, without padding."""
        return self._read(index, 3, self.facts.content, self.facts.label_dtype).astype(np.int64)

    def check(self) -> None:
        """Read every slice.

        Raises:
            StackError: One of them is damaged.
        """
        for index in range(len(self)):
            self.image(index)
            self.label(index)

    def _read(
        self, index: int, column: int, shape: tuple[int, ...], dtype: str
    ) -> Shaped[np.ndarray, "..."]:
        offset, length, crc = (int(value) for value in self.chunks[index, column : column + 3])
        try:
            with self.path.open("rb") as stream:
                stream.seek(offset)
                chunk = stream.read(length)
        except OSError as error:
            raise StackError(f"slice {index} cannot be read: {error.strerror}") from error
        if len(chunk) != length or zlib.crc32(chunk) != crc:
            raise StackError(f"slice {index} is damaged")
        out = np.empty(shape, dtype=dtype)
        _decompress(chunk, out)
        return out


def _decompress(chunk: bytes, out: Shaped[np.ndarray, "..."]) -> None:
    # the size is checked first: the decompressor trusts the header of the chunk
    try:
        if blosc2.get_cbuffer_sizes(chunk)[0] != out.nbytes:
            raise StackError("a slice has another size than the footer says")
        if out.nbytes:
            blosc2.decompress2(chunk, dst=out, nthreads=1)
    except (RuntimeError, ValueError) as error:
        raise StackError(f"a slice cannot be decompressed ({error})") from error


def _compress(array: Shaped[np.ndarray, "..."]) -> bytes:
    # one thread: workers run beside each other, and threads do not survive a fork
    return bytes(
        blosc2.compress2(
            np.ascontiguousarray(array),
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            typesize=array.itemsize,
            filters=[blosc2.Filter.BITSHUFFLE],
            filters_meta=[0],
            nthreads=1,
        )
    )


def quantise(image: Float[np.ndarray, "c h w"], dtype: str) -> Shaped[np.ndarray, "c h w"]:
    """Values in [0, 1] as whole steps of `dtype` ("uint8" or "uint16")."""
    return np.rint(image * np.float32(_MAX[dtype])).astype(dtype)


def write_stack(stream: IO[bytes], facts: StackFacts, slices: Iterator[StackSlice]) -> None:
    """Write one file; slices are taken one at a time, so memory stays bounded."""
    stream.write(MAGIC)
    position = len(MAGIC)
    rows, foreground = [], []
    for one in slices:
        row = []
        for array in (one.image, one.label):
            chunk = _compress(array)
            stream.write(chunk)
            row += [position, len(chunk), zlib.crc32(chunk)]
            position += len(chunk)
        rows.append(row)
        foreground.append(int(np.count_nonzero(one.label)))
    footer = {name: getattr(facts, name) for name in facts.__slots__}
    text = json.dumps({**footer, "foreground": foreground, "chunks": rows}).encode()
    stream.write(text)
    stream.write(_tail(text))


def _tail(footer: bytes) -> bytes:
    crc = zlib.crc32(footer)
    return _TAIL.pack(len(footer), crc, zlib.crc32(MAGIC + struct.pack("<II", len(footer), crc)))


def open_stack(path: Path) -> Stack:
    """Read the footer of a file.

    Raises:
        FileNotFoundError: There is no such file.
        StackError: It is not such a file, or is cut short or changed.
    """
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        if size < len(MAGIC) + _TAIL.size:
            raise StackError("the file is too short")
        stream.seek(size - _TAIL.size)
        tail = stream.read(_TAIL.size)
        length = _TAIL.unpack(tail)[0]
        start = size - _TAIL.size - length
        if length > _MOST_FOOTER_BYTES or start < len(MAGIC):
            raise StackError("the footer has an impossible length")
        stream.seek(start)
        footer = stream.read(length)
        stream.seek(0)
        if stream.read(len(MAGIC)) != MAGIC or _tail(footer) != tail:
            raise StackError("the footer is damaged")
    return _parse(path, json.loads(footer))


def _parse(path: Path, footer: dict[str, object]) -> Stack:
    chunks = np.array(footer.pop("chunks"), dtype=np.int64).reshape(-1, 6)
    foreground = np.array(footer.pop("foreground"), dtype=np.int64)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in footer.items()}
    return Stack(path, StackFacts(**values), foreground, chunks)  # type: ignore[arg-type]
