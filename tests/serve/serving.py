"""A server of its own process for the tests, and one without a network."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from segkit.models import build as build_model
from segkit.predictors import VolumePredictor
from segkit.serve.engine import Engine
from segkit.serve.memory import settle
from segkit.serve.residents import Residents
from segkit.serve.server import build
from segkit.serve.settings import Settings
from segkit.serve.state import State

TOKEN = "0123456789abcdef0123456789abcdef"
SHAPE = (12, 40, 48)
SPACING_MM = (3.0, 1.0, 0.8)


@dataclass
class Running:
    """A server process: where it listens, and what it has written to its log."""

    port: int
    process: "subprocess.Popen[str]"
    log: Path
    folder: Path = field(default_factory=Path)

    @property
    def url(self) -> str:
        """Address without a path."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it as an administrator would."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(120)
        self._close()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait(120)
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


def start(folder: Path, *flags: str, models: tuple[str, ...] = ("nano",)) -> Running:
    """Start `segkit serve` and wait for its ready line."""
    log = folder / "server.log"
    words = [word for model in models for word in ("-m", model)]
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "segkit.serve", *words, "--device", "cpu", *flags],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "NO_PROXY": "",
                "http_proxy": "http://0.0.0.1:1",
            },
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(log.read_text())
    return Running(json.loads(line)["port"], process, log, folder)


@contextmanager
def serving(folder: Path, *flags: str, models: tuple[str, ...] = ("nano",)) -> Iterator[Running]:
    """A server that ends with the block."""
    running = start(folder, *flags, models=models)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def threaded(engine: Engine) -> Iterator[str]:
    """A server in a thread of this process; gives its address."""
    server = build(engine)
    settle()  # as `serve` does; or each dropped image costs a search through all that pytest keeps
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, 120)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)


def tiny_engine(
    state: Path | None = None, *, classes: int | None = None, **settings: object
) -> Engine:
    """Engine with a random tiny model, and with an automatic one if `classes` are asked for."""
    kept = None if state is None else State(state)
    residents = Residents(None if kept is None else kept.models)
    residents.add("tiny", VolumePredictor(build_model.sam_tiny(), device="cpu"))
    if classes:
        model = build_model.sam_tiny(classes=classes)
        residents.add("organs", VolumePredictor(model, device="cpu"))
    return Engine(residents, Settings(port=0, **settings), state=kept)  # type: ignore[arg-type]


def ask(
    url: str, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, headers, body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=300)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body or None, names)
    answer = connection.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return found


def token_file(folder: Path) -> Path:
    """A file with the token, as the server wants it."""
    path = folder / "token.txt"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def body_volume(value: int = 0) -> np.ndarray:
    """A bright block in noise; int16 in (k, j, i), shifted by `value`."""
    volume = np.random.default_rng(0).integers(0, 100, size=SHAPE, dtype=np.int16)
    volume[3:9, 12:28, 14:34] += 900
    return volume + np.int16(value)


def wait_for(condition: object, seconds: float = 60.0) -> None:
    """Wait until a callable is true."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
