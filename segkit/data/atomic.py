"""Files that appear finished or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from segkit.errors import InputError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write to a temporary file in the same folder; rename it to `path` when the block succeeds.

    After an error nothing is left, and a file that was there before is as it was.

    Raises:
        InputError: The folder is absent or not writable, or the disk is full.
    """
    # the name says nothing about the case: it may show up in a listing after a crash
    temporary = path.with_name(f".segkit-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})",
            fix="check that the folder exists, is writable and has space left",
            path=path,
            code="not_writable",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename durable where folders can be synchronised (not on Windows)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
