"""Headless Chromium, driven over a pipe with the standard library."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe", "--window-size=1280,860", "--no-proxy-server",
)  # fmt: skip


def find() -> str | None:
    """Path of Chromium, if it is here."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


def _as_3_and_4(read: int, write: int) -> None:
    """Where Chromium looks for its pipes; first out of the way, since the numbers may overlap."""
    read, write = (fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in (read, write))
    os.dup2(read, 3)
    os.dup2(write, 4)


class Browser:
    """One tab. Commands are those of the Chrome DevTools protocol, separated by NUL bytes."""

    def __init__(self, downloads: Path) -> None:
        program = find()
        assert program is not None
        self._profile = tempfile.mkdtemp(prefix="segkit-chromium-")
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        words = [program, *FLAGS, f"--user-data-dir={self._profile}"]
        self._process = subprocess.Popen(
            words,
            pass_fds=(3, 4),
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: _as_3_and_4(theirs_in, theirs_out),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._rest = ours_in, ours_out, b""
        self._number, self._tab = 0, ""
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        about = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._tab = about["sessionId"]
        for part in ("Page", "Runtime", "Log", "DOM"):
            self.send(f"{part}.enable")
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._tab:
            message["sessionId"] = self._tab
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            about = answer.get("params", {})
            is_error = about.get("entry", {}).get("level") == "error"
            if is_error or answer.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(about))

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        found = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 240.0) -> Any:
        """Wait until an expression is true, and return it."""
        end = time.monotonic() + seconds
        # while a page loads there is little to look at
        tolerant = f"(() => {{ try {{ return {script} }} catch {{ return null }} }})()"
        while not (value := self.run(tolerant)):
            assert time.monotonic() < end, f"{script} did not become true: {self.complaints}"
            time.sleep(0.05)
        return value

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def click(self, x: float, y: float) -> None:
        """Press and release the left button at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Save what is seen."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(10)
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._in, 2**20)
            assert data, "the browser has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))
