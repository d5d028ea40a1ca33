"""Checkpoints that survive a kill at any moment: written aside, checked, then renamed.

A checkpoint holds trainable weights, optimiser, schedule and position; the frozen encoder is named
by its hash. Random numbers are a function of (seed, epoch, batch), so no generator state is stored.
"""

import hashlib
import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor
from typing_extensions import override

from segkit.errors import CheckpointError

LAST = "last.ckpt"
PARTIAL = ".partial"
"""Suffix of a file that is being written; never read, removed at the next start."""

_log = logging.getLogger(__name__)


class _HashedFile:
    """Write-only file that hashes what passes and keeps the first system error.

    The zip writer of torch turns an `OSError` of its target into a message without cause.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            count = self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.digest.update(data)
        return count

    def flush(self) -> None:
        self.file.flush()


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_aside(state: Mapping[str, Any], partial: Path) -> str:
    """Write and flush to the disk; return the hash of what was meant to be written."""
    with partial.open("wb", buffering=0) as file:
        target = _HashedFile(file)
        try:
            torch.save(dict(state), target)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise target.error or error from error
        os.fsync(file.fileno())
    return target.digest.hexdigest()


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept, e.g. `last.previous.ckpt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def write_checkpoint(
    state: Mapping[str, Any], path: str | Path, *, keeps_previous: bool = False
) -> str:
    """Write atomically, read back and return the sha256.

    With `keeps_previous` the file that was there stays as `previous(path)`.

    Raises:
        CheckpointError: The disk is full, the folder is read-only, or what was read back differs.
            The earlier checkpoint is then still in place.
    """
    path = Path(path)
    partial = path.with_name(path.name + PARTIAL)
    try:
        digest = _write_aside(state, partial)
        if (found := _sha256(partial)) != digest:
            raise OSError(f"read back sha256 {found[:12]}, wrote {digest[:12]}")
        if keeps_previous and path.exists():
            # a hard link, so that `path` exists at every moment
            previous(path).unlink(missing_ok=True)
            os.link(path, previous(path))
        os.replace(partial, path)
        _fsync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        needed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))
        raise CheckpointError(
            f"checkpoint not saved: {error.strerror or error}",
            path=path,
            fix=f"it needs {needed:,} bytes; free space there, then resume with ckpt_path=last",
            code="not_saved",
        ) from error
    return digest


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read tensors and plain values only; check every member of the file first.

    Raises:
        CheckpointError: The file is missing, damaged, or holds anything but tensors and values.
    """
    path = Path(path)
    again = "resume from another checkpoint of the run folder, or train again"
    if not path.is_file():
        raise CheckpointError("no such checkpoint", path=path, fix=again)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"damaged checkpoint ({error})", path=path, fix=again) from error
    if damaged:
        raise CheckpointError(f"damaged checkpoint (checksum of {damaged})", path=path, fix=again)
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"unreadable checkpoint ({first})", path=path, fix=again) from error
    return state


def find_checkpoint(folder: str | Path, name: str = "last") -> Path:
    """Newest readable checkpoint `name` in a run's `checkpoints/`, else the one before it.

    Raises:
        CheckpointError: Neither can be read.
    """
    path = Path(folder) / f"{name}.ckpt"
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        if not previous(path).is_file():
            raise
        _log.warning("%s; resuming from %s", error, previous(path).name)
        read_checkpoint(previous(path))
        return previous(path)
    return path


class AtomicCheckpointIO(CheckpointIO):
    """What the trainer uses to write and read checkpoints."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        write_checkpoint(checkpoint, path, keeps_previous=Path(path).name == LAST)

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path, map_location or "cpu")

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
