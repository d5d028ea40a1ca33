"""A scene of real MRML for each test, and a real server for those that want one.

Runs in an environment of its own: `make test-slicer`. In the environment of segkit the files here
skip themselves.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [
    str(HERE),
    str(HERE.parents[2] / "integrations" / "slicer" / "SegKit" / "SegKit"),
]


@pytest.fixture
def mrml() -> Iterator[object]:
    """An empty scene; `slicer` is set up around it."""
    import bootstrap
    import slicer

    kept = bootstrap.start()
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(1)
    del kept


@pytest.fixture(scope="session")
def server() -> Iterator[object]:
    """A `segkit serve -m nano` started as the extension starts its own."""
    from SegKitLib.serverproc import ServerProcess

    python = os.environ.get("SEGKIT_PYTHON")
    if not python:
        pytest.skip("SEGKIT_PYTHON does not name a Python with segkit[serve] (make test-slicer)")
    process = ServerProcess(python, ["nano"], {**os.environ, "OMP_NUM_THREADS": "1"})
    process.start()
    end = time.monotonic() + 600  # a busy machine takes minutes to import torch
    while not process.poll():
        assert time.monotonic() < end, process.log
        time.sleep(0.05)
    yield process
    process.stop()
