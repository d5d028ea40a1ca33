"""Content hashes of data files, remembered until a file changes."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

from segkit.data.duplicates import file_digest


class DigestMemo:
    """SHA-256 of files; `path` is a JSON file that keeps them between runs.

    A file is hashed again when its size, times or inode change. The memory itself holds no names:
    its keys are hashes too. A damaged or unwritable memory costs time and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._is_changed = False

    def __call__(self, path: Path) -> str:
        """Content hash of a file, hexadecimal.

        Raises:
            OSError: The file cannot be read.
        """
        state = path.stat()
        parts = (os.path.abspath(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        key = hashlib.sha256(repr((*parts, state.st_ino)).encode()).hexdigest()
        if key not in self._known:
            self._known[key] = file_digest(path)
            self._is_changed = True
        return self._known[key]

    def save(self) -> None:
        """Write the memory, whole or not at all."""
        if not self._is_changed:
            return
        try:
            handle, name = tempfile.mkstemp(dir=self._path.parent, suffix=".tmp")
            with os.fdopen(handle, "w") as stream:
                json.dump(self._known, stream)
            os.replace(name, self._path)
        except OSError:
            return
        self._is_changed = False


def _read(path: Path) -> dict[str, str]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    is_table = isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
    return value if is_table else {}
