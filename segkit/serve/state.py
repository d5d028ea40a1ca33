"""Work on disk: one private folder per client, an ordered journal in each.

Folders are named by a hash of the client's token, files by numbers; nothing a client sent becomes
part of a path. Everything is readable by the owner only.
"""

import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from segkit.client.codec import Buffer
from segkit.errors import InputError

log = logging.getLogger(__name__)
JOURNAL, LOCK = "journal.jsonl", "lock"
Event = dict[str, Any]


class Journal:
    """The actions of one client, in order; what is written here is replayed after a restart."""

    def __init__(self, folder: Path, writer: ThreadPoolExecutor) -> None:
        self._folder, self._writer = folder, writer
        self._next = len(list(folder.glob("*.bin"))) if folder.is_dir() else 0

    def append(self, event: Event, payload: Buffer | None = None) -> None:
        """Note an action; written behind the caller's back, in order."""
        if payload is not None:
            self._next += 1
            event = {**event, "payload": self._next}
        self._submit(lambda: self._write(event, payload))

    def events(self) -> list[Event]:
        """All complete actions; a half-written last line is left out."""
        path = self._folder / JOURNAL
        found = []
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def payload(self, event: Event) -> bytes | None:
        """Bytes that were noted with an action."""
        if "payload" not in event:
            return None
        return (self._folder / f"{int(event['payload']):06d}.bin").read_bytes()

    def forget(self) -> None:
        """Delete everything."""
        self._submit(lambda: shutil.rmtree(self._folder, ignore_errors=True))

    def touch(self) -> None:
        """Note that the client was here."""
        self._submit(lambda: os.utime(self._folder) if self._folder.is_dir() else None)

    def _submit(self, work: Callable[[], object]) -> None:
        self._writer.submit(_quietly, work)

    def _write(self, event: Event, payload: Buffer | None) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if payload is not None:
            path = self._folder / f"{event['payload']:06d}.bin"
            _write_private(path.with_suffix(".tmp"), payload)
            os.replace(path.with_suffix(".tmp"), path)
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        handle = os.open(self._folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


class State:
    """The folder of a server. Only one server uses it at a time.

    Raises:
        InputError: It cannot be written, or another server uses it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for part in (folder, folder / "work", self.models):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
                part.chmod(0o700)
        except OSError as error:
            raise InputError(
                f"the state folder cannot be used ({error.strerror})",
                fix="choose another with --state-dir, or --no-state",
                path=folder,
                code="state_folder",
            ) from error
        self._lock = _lock(folder / LOCK)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="segkit-journal")
        for half in (folder / "work").glob("*/*.tmp"):
            half.unlink(missing_ok=True)

    @property
    def models(self) -> Path:
        """Where learned versions of models are kept."""
        return self.folder / "models"

    def journal(self, token: str) -> Journal:
        """Journal of a client."""
        return Journal(self._folder_of(token), self._writer)

    def knows(self, token: str) -> bool:
        """Whether a client has work here."""
        return (self._folder_of(token) / JOURNAL).is_file()

    def sweep(self, keep_s: float) -> int:
        """Delete the work of clients that stayed away for longer than `keep_s`; count them."""
        old = [
            folder
            for folder in (self.folder / "work").iterdir()
            if time.time() - folder.stat().st_mtime > keep_s
        ]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return len(old)

    def flush(self) -> None:
        """Wait until everything noted so far is written."""
        self._writer.submit(lambda: None).result()

    def close(self) -> None:
        """Write what is left and let another server in."""
        self._writer.shutdown(wait=True)
        os.close(self._lock)

    def _folder_of(self, token: str) -> Path:
        return self.folder / "work" / hashlib.sha256(token.encode()).hexdigest()[:32]


def private_folder() -> Path:
    """Folder for temporary files of this process; those of processes that died are removed."""
    root = Path(tempfile.gettempdir()) / f"segkit-serve-{getattr(os, 'getuid', lambda: 0)()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if os.name == "posix" and (root.is_symlink() or root.stat().st_uid != os.getuid()):
        raise InputError("the folder for temporary files belongs to another user", path=root)
    root.chmod(0o700)
    for old in root.iterdir():
        pid = old.name.partition("-")[0]
        if pid.isdecimal() and not _is_running(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    own = root / f"{os.getpid()}-{secrets.token_hex(8)}"
    own.mkdir(mode=0o700)
    return own


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write_private(path: Path, data: Buffer) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _quietly(work: Callable[[], object]) -> None:
    """A full disk must not stop the work on the screen; it is said once per failure."""
    try:
        work()
    except OSError as error:
        log.warning("work could not be kept on disk: %s", os.strerror(error.errno or 0))


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise InputError(
                "another server uses this state folder",
                fix="stop it, or choose another folder with --state-dir",
                path=path.parent,
                code="state_in_use",
            ) from error
    return handle
