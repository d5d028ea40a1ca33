"""A `segkit serve` of one's own: started with a clean environment, stopped with its owner."""

import atexit
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

_OF_THE_APPLICATION = (
    "PYTHON", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_", "QT_", "SLICER", "TCL_", "TK_", "ITK_",
    "VTK_", "SSL_CERT_FILE", "VIRTUAL_ENV",
)  # fmt: skip
_LOG_LINES = 40


class ServerProcessError(Exception):
    """The server could not be started; the message holds the end of its log."""


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment without what would lead another Python to this application's libraries."""
    return {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith(_OF_THE_APPLICATION)
    }


class ServerProcess:
    """One server on this machine, on a free port, with a token that only its owner knows.

    `start` returns at once; `poll` says when it is ready. Only the process started here is ever
    ended. Its log stays in memory.

    Args:
        python: Interpreter that has segkit with the extra `serve`.
        models: What to load: names or paths.
        environment: Variables of the application before its launcher changed them.
    """

    def __init__(
        self, python: str | Path, models: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        if not models:
            raise ServerProcessError("no model was named; enter one, for example nano")
        self.python, self.models = str(python), tuple(models)
        self.token = secrets.token_hex(32)
        self.url = ""
        self._environment = clean_environment(environment)
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()
        self._log: deque[str] = deque(maxlen=_LOG_LINES)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self._log)

    def start(self) -> None:
        """Start the process.

        Raises:
            ServerProcessError: The interpreter cannot be run.
        """
        if self.is_running:
            return
        self._ready.clear()
        folder = Path(tempfile.mkdtemp(prefix="segkit-"))
        file = folder / "token"
        # the mode is set when the file is made: there is no moment in which others can read it
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(self.token)
        words = [word for model in self.models for word in ("-m", model)]
        flags = ["--host", "127.0.0.1", "--port", "0", "--token-file", str(file)]
        hidden = {"creationflags": 0x08000000} if sys.platform == "win32" else {}
        try:
            self._process = subprocess.Popen(
                # -P: nothing is imported from the folder the application was started in
                [self.python, "-P", "-m", "segkit.serve", *words, *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=self._environment,
                **hidden,
            )
        except OSError as error:
            _remove(file)
            raise ServerProcessError(
                f"{self.python} cannot be run ({error.strerror}); choose the Python that has segkit"
            ) from error
        atexit.register(self.stop)
        for reader in (self._read_ready_line, self._read_log):
            threading.Thread(target=reader, args=(self._process, file), daemon=True).start()

    def poll(self) -> bool:
        """Whether it is ready; then `url` is known.

        Raises:
            ServerProcessError: It ended before it was ready.
        """
        if self._ready.is_set():
            return True
        if self._process is not None and not self.is_running:
            time.sleep(0.05)  # let the reader take the last lines
            raise ServerProcessError(
                f"the server ended with status {self._process.returncode} before it was ready:\n"
                f"{self.log or 'it wrote nothing'}"
            )
        return False

    def stop(self, wait_s: float = 5.0) -> None:
        """End the process that was started here, if it lives."""
        atexit.unregister(self.stop)
        process, self._process, self.url = self._process, None, ""
        self._ready.clear()
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(wait_s)

    def _read_ready_line(self, process: "subprocess.Popen[str]", token_file: Path) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self.url = f"http://127.0.0.1:{int(json.loads(line)['port'])}"
                # it has been read by now
                _remove(token_file)
                self._ready.set()
        process.stdout.close()
        _remove(token_file)

    def _read_log(self, process: "subprocess.Popen[str]", _: Path) -> None:
        assert process.stderr is not None
        self._log.extend(line.rstrip() for line in process.stderr)
        process.stderr.close()


def _remove(file: Path) -> None:
    """Remove a file and its folder; another thread may have done so."""
    with contextlib.suppress(OSError):
        file.unlink()
    with contextlib.suppress(OSError):
        file.parent.rmdir()
