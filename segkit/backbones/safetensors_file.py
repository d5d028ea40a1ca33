"""Safetensors files with a content hash: checked before allocation, written atomically.

Format: 8 bytes header length (little endian), JSON header, raw tensors (source: the safetensors
format description). segkit adds to the metadata `CONTENT_HASH`, the sha256 over names, types,
shapes, data and the other metadata, and `MARK`, which says that the hash must be there: one flipped
bit is noticed wherever it is.
"""

import contextlib
import hashlib
import json
import math
import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from segkit.errors import CheckpointError

CONTENT_HASH = "segkit_content_sha256"
MARK = "segkit_weights"
MAX_HEADER_BYTES = 16 * 2**20
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of the header; `start` counts bytes from the end of the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def read_safetensors(file: BufferedReader, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map an open file into tensors and metadata; `path` is for messages.

    Names, types, offsets and the total size are checked before any tensor exists. The tensors view
    a private mapping of the file; changing them does not change the file.

    Raises:
        CheckpointError: The file is empty, cut, damaged or not a safetensors file.
    """
    size = os.fstat(file.fileno()).st_size
    header, offset = _read_header(file, size, path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "metadata is not a table of texts")
    entries = [_entry(name, value, path) for name, value in header.items()]
    _check_layout(entries, size - offset, path)
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors = {entry.name: _map(view, entry, offset) for entry in entries}
    expected = metadata.get(CONTENT_HASH)
    if (MARK in metadata) != (expected is not None):
        raise _damaged(path, f"metadata must hold both {MARK!r} and {CONTENT_HASH!r} or neither")
    if expected is not None:
        found = content_sha256(tensors, metadata)
        if found != expected:
            raise _damaged(path, f"sha256 of the content is {found}, its header says {expected}")
    return tensors, metadata


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write tensors and metadata, read them back, and only then let `path` appear.

    Returns:
        The sha256 of the file.

    Raises:
        OSError: The folder is missing, not writable or full; an existing file stays as it was.
        TypeError: A tensor has a type the format cannot hold.
    """
    path = Path(path)
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    notes = dict(metadata or {}) | {MARK: "1"}
    notes[CONTENT_HASH] = content_sha256(ready, notes)
    header = _header(ready, notes)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            digest = hashlib.sha256()
            file.write(header)
            digest.update(header)
            for tensor in ready.values():
                file.write(_raw(tensor))
                digest.update(_raw(tensor))
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            if hashlib.file_digest(file, "sha256").digest() != digest.digest():
                raise OSError(f"{path}: reading back gives other bytes; check the storage")
        _publish(Path(name), path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    return digest.hexdigest()


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Hash names, types, shapes and values, whatever the order or the file format."""
    digest = hashlib.sha256()
    notes = {key: value for key, value in (metadata or {}).items() if key != CONTENT_HASH}
    digest.update(json.dumps(notes, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_raw(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()


def _read_header(file: BufferedReader, size: int, path: Path) -> tuple[dict[str, object], int]:
    file.seek(0)
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        raise _damaged(path, f"its header says {length:,} bytes, the file has {size:,}")
    if length > MAX_HEADER_BYTES:
        raise _damaged(path, f"a header of {length:,} bytes; allowed are {MAX_HEADER_BYTES:,}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"the header cannot be read ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not a table")
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate name {next(n for n in names if names.count(n) > 1)!r}")
    return table


def _entry(name: str, value: object, path: Path) -> _Entry:
    try:
        dtype = _DTYPES[value["dtype"]]  # type: ignore[index]
        shape = tuple(value["shape"])  # type: ignore[index]
        start, stop = value["data_offsets"]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"the entry of {name!r} is incomplete or of unknown type") from error
    numbers = (*shape, start, stop)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _damaged(path, f"the entry of {name!r} has a negative or fractional size")
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"{name!r} of shape {shape} cannot take {stop - start:,} bytes")
    return _Entry(name, dtype, shape, start, stop)


def _check_layout(entries: list[_Entry], available: int, path: Path) -> None:
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.start != end:
            raise _damaged(path, f"the data of {entry.name!r} overlap or leave a gap")
        end = entry.stop
    if end != available:
        raise _damaged(path, f"its tensors need {end:,} bytes, the file holds {available:,}")


def _map(view: mmap.mmap, entry: _Entry, offset: int) -> Tensor:
    if not (count := math.prod(entry.shape)):
        return torch.empty(entry.shape, dtype=entry.dtype)
    start = offset + entry.start
    if start % entry.dtype.itemsize:
        # foreign writers need not align; torch must have it
        data = bytearray(view[start : offset + entry.stop])
        return torch.frombuffer(data, dtype=entry.dtype).reshape(entry.shape)
    flat = torch.frombuffer(view, dtype=entry.dtype, count=count, offset=start)
    return flat.reshape(entry.shape)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        if (code := _CODES.get(tensor.dtype)) is None:
            raise TypeError(f"tensor {name!r} must be one of {sorted(_DTYPES)}, got {tensor.dtype}")
        start, end = end, end + tensor.nbytes
        table[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _raw(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _publish(part: Path, path: Path) -> None:
    """Rename within the folder and make the rename durable."""
    # mkstemp creates private files; a result has the permissions of any other new file
    mask = os.umask(0)
    os.umask(mask)
    part.chmod(0o666 & ~mask)
    part.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _damaged(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(
        f"not a sound safetensors file: {cause}",
        fix="copy or download it again",
        path=path,
        code="damaged_checkpoint",
    )
