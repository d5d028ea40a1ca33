"""The thread that waits, and the server process that the extension starts."""

import json
import os
import stat
import sys
import threading
import time
from pathlib import Path

import pytest
from SegKitLib.serverproc import ServerProcess, ServerProcessError, clean_environment
from SegKitLib.worker import Worker


def test_results_arrive_in_order_on_the_thread_that_polls() -> None:
    worker, got = Worker(), []
    main = threading.get_ident()
    for number in range(3):
        worker.submit(
            lambda number=number: (number, threading.get_ident()),
            lambda result: got.append((*result, threading.get_ident())),
            lambda error: got.append(error),
        )
    assert got == []
    while worker.is_busy:
        worker.poll(1.0)
    assert [number for number, _, _ in got] == [0, 1, 2]
    assert all(there != main and here == main for _, there, here in got)
    worker.stop()


def test_errors_are_handed_over_and_the_worker_goes_on() -> None:
    worker, got = Worker(), []
    worker.submit(lambda: 1 / 0, got.append, lambda error: got.append(type(error)))
    worker.submit(lambda: 5, got.append, got.append)
    while worker.is_busy:
        worker.poll(1.0)
    assert got == [ZeroDivisionError, 5]
    worker.stop()


def test_polling_does_not_wait_for_a_slow_job() -> None:
    worker, go, got = Worker(), threading.Event(), []
    worker.submit(lambda: go.wait(10), got.append, got.append)
    begin = time.monotonic()
    assert worker.poll() == 0
    assert worker.poll(0.05) == 0
    assert time.monotonic() - begin < 2
    go.set()
    while worker.is_busy:
        worker.poll(1.0)
    assert got == [True]
    worker.stop()


def test_the_environment_of_the_application_is_left_behind() -> None:
    kept = {"PATH": "/bin", "HOME": "/home/a", "SEGKIT_TOKEN": "x", "CUDA_VISIBLE_DEVICES": "0"}
    left = {
        "PYTHONHOME": "/s", "PYTHONPATH": "/s", "LD_LIBRARY_PATH": "/s", "QT_PLUGIN_PATH": "/s",
        "SLICER_HOME": "/s", "SSL_CERT_FILE": "/s", "ITK_AUTOLOAD_PATH": "/s",
    }  # fmt: skip
    assert clean_environment(kept | left) == kept


FAKE = """
import json, os, pathlib, stat, sys, time
file = pathlib.Path(sys.argv[sys.argv.index("--token-file") + 1])
mode = stat.S_IMODE(file.stat().st_mode)
about = {"token": file.read_text(), "mode": mode, "args": sys.argv[1:]}
about["home"] = "PYTHONHOME" in os.environ
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(about))
if "broken" in sys.argv:
    sys.exit("no such model: broken")
sys.stderr.write("loading\\n")
print(json.dumps({"port": 4321, "protocol": 1}), flush=True)
time.sleep(60)
"""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter whose `segkit.serve` is a fake one."""
    package = tmp_path / "site" / "segkit"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "serve.py").write_text(FAKE)
    script = tmp_path / "python"
    script.write_text(
        f"#!/bin/sh\nexport PYTHONPATH='{package.parent}'\nexport SEEN='{tmp_path / 'seen.json'}'\n"
        f'exec "{sys.executable}" "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return script


def wait(server: ServerProcess) -> None:
    end = time.monotonic() + 30
    while not server.poll():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(os.name != "posix", reason="the fake interpreter is a shell script")
def test_a_server_is_started_and_only_it_is_ended(python: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHOME": "/of/the/application"}
    server = ServerProcess(python, ["nano", "other"], environment)
    server.start()
    server.start()
    wait(server)
    assert server.url == "http://127.0.0.1:4321"
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["token"] == server.token
    assert len(server.token) == 64
    assert seen["mode"] == stat.S_IRUSR | stat.S_IWUSR
    assert not seen["home"]
    assert seen["args"][:4] == ["-m", "nano", "-m", "other"]
    assert server.token not in seen["args"]
    # nothing of the token stays on the disk
    assert list(tmp_path.glob("segkit-*")) == []
    assert server.is_running
    server.stop()
    assert not server.is_running
    server.stop()


@pytest.mark.skipif(os.name != "posix", reason="the fake interpreter is a shell script")
def test_a_server_that_ends_early_shows_its_log(python: Path, tmp_path: Path) -> None:
    server = ServerProcess(python, ["broken"], dict(os.environ))
    server.start()
    with pytest.raises(ServerProcessError, match="no such model: broken"):
        wait(server)
    assert list(tmp_path.glob("segkit-*")) == []


def test_servers_that_cannot_be_started() -> None:
    with pytest.raises(ServerProcessError, match="choose the Python that has segkit"):
        ServerProcess("/no/such/python", ["nano"], {}).start()
    with pytest.raises(ServerProcessError, match="no model was named"):
        ServerProcess(sys.executable, [], {})
