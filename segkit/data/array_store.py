"""Arrays on disk by key, within a number of bytes; compressed without loss, checked when read."""

import json
import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import blosc2
import numpy as np
from jaxtyping import Shaped

from segkit.errors import DataWarning, InputError

MAGIC = b"SEGKITA1"
_HEAD = struct.Struct("<8sII")  # magic, length and CRC-32 of the JSON that follows
_MOST_JSON_BYTES = 1 << 20
Array = Shaped[np.ndarray, "..."]


class ArrayStore:
    """Files in `folder`, one per key; the oldest go when `most_bytes` are exceeded at the start.

    Later on a full store takes nothing more, so what one epoch wrote the next one finds. Safe to
    use from several processes: a file appears whole or not at all. A file holds a JSON list of
    shapes, data types, lengths and CRC-32, then the arrays; no names, no pickled objects.

    Example:
        >>> import tempfile
        >>> store = ArrayStore(tempfile.mkdtemp(), most_bytes=2**20)
        >>> store.put("ab12", [np.arange(3)]), store.get("ab12")[0].tolist(), store.get("cd34")
        (True, [0, 1, 2], None)
    """

    def __init__(self, folder: str | Path, *, most_bytes: int) -> None:
        self.folder, self.most_bytes = Path(folder), most_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InputError(
                f"the cache cannot be written ({error.strerror})",
                path=self.folder,
                fix="free some space, or choose another folder with cache_dir or SEGKIT_HOME",
                code="cache",
                option="cache_dir",
            ) from error
        self.bytes = self._drop_oldest()

    def get(self, key: str) -> tuple[Array, ...] | None:
        """Arrays of a key; None if there are none.

        Warns:
            DataWarning: The file was damaged; it is removed.
        """
        path = self.folder / key
        try:
            content = path.read_bytes()
        except OSError:
            return None
        try:
            return _unpack(content)
        except (ValueError, RuntimeError, KeyError, TypeError, struct.error) as error:
            warnings.warn(
                f"a file of kept features is damaged ({error}) and is computed again",
                DataWarning,
                stacklevel=2,
            )
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, arrays: Sequence[Array]) -> bool:
        """Keep arrays; False if the store or the disk is full."""
        content = _pack(arrays)
        if self.bytes + len(content) > self.most_bytes:
            return False
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, self.folder / key)
        except OSError:
            Path(name).unlink(missing_ok=True)
            return False
        self.bytes += len(content)
        return True

    def _drop_oldest(self) -> int:
        """Remove what is too much; returns the bytes in use."""
        found = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process may have removed it
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.most_bytes:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
            total -= size
        return total


def _pack(arrays: Sequence[Array]) -> bytes:
    chunks, facts = [], []
    for array in arrays:
        chunk = bytes(
            blosc2.compress2(
                np.ascontiguousarray(array),
                codec=blosc2.Codec.LZ4,
                clevel=1,
                typesize=array.itemsize,
                filters=[blosc2.Filter.BITSHUFFLE],
                filters_meta=[0],
                nthreads=1,
            )
        )
        chunks.append(chunk)
        facts.append([list(array.shape), array.dtype.str, len(chunk), zlib.crc32(chunk)])
    text = json.dumps(facts).encode()
    return b"".join([_HEAD.pack(MAGIC, len(text), zlib.crc32(text)), text, *chunks])


def _unpack(content: bytes) -> tuple[Array, ...]:
    magic, length, crc = _HEAD.unpack_from(content)
    start = _HEAD.size + length
    text = content[_HEAD.size : start]
    if magic != MAGIC or length > _MOST_JSON_BYTES or zlib.crc32(text) != crc:
        raise ValueError("its head is wrong")
    arrays = []
    for shape, dtype, size, check in json.loads(text):
        chunk, start = content[start : start + size], start + size
        out = np.empty(shape, dtype=np.dtype(dtype))
        if zlib.crc32(chunk) != check or blosc2.get_cbuffer_sizes(chunk)[0] != out.nbytes:
            raise ValueError("an array is cut short or changed")
        if out.nbytes:
            blosc2.decompress2(chunk, dst=out, nthreads=1)
        arrays.append(out)
    return tuple(arrays)
