"""The folder of one run: one owner at a time, and a record of what the run was."""

import json
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

import yaml

from segkit.errors import InputError
from segkit.lightning.checkpoints import PARTIAL, find_checkpoint

_log = logging.getLogger(__name__)

_LOADING = ("root", "cache_dir", "workers", "timeout_s")
FREE_TO_CHANGE = (
    *("ckpt_path", "run", "runs", "allow_changes", "tags"),
    *(f"data.{name}" for name in _LOADING),
    *(f"data.slices.{name}" for name in _LOADING),
    *(f"data.slices.loader.{name}" for name in _LOADING),
)
"""Settings that do not change what is learned; the data are compared by content instead."""


class RunFolder:
    """Own a run folder while training: lock it, keep its files, refuse a second trainer.

    The lock is one of the operating system, so it ends with the process however that dies; the
    file `run.lock` that is left behind is stale and taken over.

    Example:
        >>> import tempfile
        >>> with RunFolder(tempfile.mkdtemp()) as run:
        ...     run.checkpoints.name
        'checkpoints'
    """

    def __init__(self, path: str | Path, *, is_owner: bool = True) -> None:
        self.path = Path(path)
        self.is_owner = is_owner
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        if self.is_owner:
            self._make()
            self._take_lock()
            for partial in self.path.rglob(f"*{PARTIAL}"):
                partial.unlink()
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            # emptied, not removed: removing would race with the next owner
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    @property
    def checkpoints(self) -> Path:
        """Folder of `last.ckpt` and `best.ckpt`."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained model."""
        return self.path / "adapter.safetensors"

    @property
    def lock_path(self) -> Path:
        """Names the process that trains here."""
        return self.path / "run.lock"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return (self.checkpoints / "last.ckpt").exists()

    def resume_from(self, ckpt_path: str | Path) -> Path:
        """Resolve "last", "best" or a path.

        Raises:
            CheckpointError: There is no readable checkpoint.
        """
        if str(ckpt_path) in ("last", "best"):
            return find_checkpoint(self.checkpoints, str(ckpt_path))
        return find_checkpoint(Path(ckpt_path).parent, Path(ckpt_path).stem)

    def refuse_to_overwrite(self) -> None:
        """Stop a new run from replacing an old one.

        Raises:
            InputError: The folder holds the checkpoints of an earlier run.
        """
        if self.has_checkpoint:
            raise InputError(
                "this folder holds a training run",
                path=self.path,
                fix="resume it with ckpt_path=last, or choose another folder with run=PATH",
                code="run_exists",
                option="ckpt_path",
            )

    def keep_config(
        self, config: Mapping[str, Any], *, is_resumed: bool, allow_changes: bool = False
    ) -> dict[str, list[Any]]:
        """Write `config.yaml`, or compare with it on resume; return [old, new] by dotted key.

        Raises:
            InputError: Settings differ and `allow_changes` is not set.
        """
        path, changes = self.path / "config.yaml", {}
        if is_resumed and path.exists():
            changes = differences(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, config)
            if changes and not allow_changes:
                listed = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in changes.items()]
                raise InputError(
                    "the run was started with other settings: " + ", ".join(listed),
                    path=path,
                    fix="undo the changes, or accept and record them with allow_changes=true",
                    code="config_changed",
                    option="allow_changes",
                )
        self._replace(path, yaml.safe_dump(plain(config), sort_keys=False))
        return changes

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a record in one piece."""
        self._replace(self.path / name, json.dumps(plain(value), indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a record; a missing one is empty."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _replace(self, path: Path, text: str) -> None:
        partial = path.with_name(path.name + PARTIAL)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)

    def _make(self) -> None:
        """Create the folder, write to it and read back what was written."""
        probe = self.path / f"probe{PARTIAL}"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            probe.write_text("segkit", encoding="utf-8")
            if probe.read_text(encoding="utf-8") != "segkit":
                raise OSError("what was written could not be read back")
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"the run folder cannot be written: {error.strerror or error}",
                path=self.path,
                fix="choose a writable folder with run=PATH",
                code="read_only",
            ) from error

    def _take_lock(self) -> None:
        file = self.lock_path.open("a+", encoding="utf-8")
        try:
            _lock_file(file)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip()
            file.close()
            raise InputError(
                f"another training runs in this folder ({owner or 'unknown process'})",
                path=self.path,
                fix="wait for it, stop it, or choose another folder with run=PATH",
                code="run_locked",
            ) from error
        file.seek(0)
        if stale := file.read().strip():
            _log.info("%s: taken over a stale lock of %s", self.path, stale)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._lock = file


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """[old, new] of every setting that matters to what is learned, by dotted key."""
    before, after = flatten(plain(old)), flatten(plain(new))
    return {
        key: [before.get(key), after.get(key)]
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _is_free(key)
    }


def plain(value: Any) -> Any:
    """Reduce to what YAML can hold: paths as text, tuples as lists; numbers stay keys."""
    if isinstance(value, Mapping):
        return {k if isinstance(k, int) else str(k): plain(item) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)


def _lock_file(file: IO[str]) -> None:
    """Lock without waiting; raises OSError if another process holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
