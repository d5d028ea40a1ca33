"""Servers for the tests."""

import gc
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
from serving import TOKEN, Running, serving, threaded, tiny_engine

PATIENT = {"liveness_s": 3600.0, "idle_s": 3600.0}
"""A machine that stands still for minutes must not cost a client its place."""


@pytest.fixture(scope="session", autouse=True)
def unsettle() -> Iterator[None]:
    """What servers set aside for their lifetime goes back to the collector in the end."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A process as a person starts it for this machine, with nano."""
    folder = tmp_path_factory.mktemp("open")
    flags = ("--port", "0", "--max-sessions", "64", "--state-dir", str(folder / "state"))
    with serving(folder, *flags) as running:
        yield running


@pytest.fixture(scope="session")
def guarded() -> Iterator[str]:
    """Address of a server with a token."""
    with threaded(tiny_engine(token=TOKEN, max_leases=64, **PATIENT)) as url:
        yield url


@pytest.fixture(scope="session")
def plain() -> Iterator[str]:
    """Address of a server without a token, with an automatic model too."""
    with threaded(tiny_engine(classes=2, max_leases=64, **PATIENT)) as url:
        yield url
