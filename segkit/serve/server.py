"""A process that serves: set-up, the ready line, limits on connections, a clean end."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from segkit.predictors.base import Device
from segkit.serve.api import VERSION_OF_PROTOCOL
from segkit.serve.app import create_app
from segkit.serve.engine import Engine
from segkit.serve.memory import settle
from segkit.serve.residents import Residents
from segkit.serve.settings import Settings
from segkit.serve.state import State

log = logging.getLogger(__name__)


def run(models: Sequence[str | Path], settings: Settings, *, device: Device = "auto") -> None:
    """Load models and serve until interrupted.

    One JSON line with "port" and "protocol" goes to the standard output when requests are answered.

    Raises:
        CheckpointError: A model cannot be loaded.
        InputError: The state folder cannot be used.
    """
    state = None if settings.state is None else State(settings.state)
    residents = Residents(None if state is None else state.models)
    residents.load(models, device=device)
    engine = Engine(residents, settings, state=state)
    _allow_many_connections()
    settle()
    build(engine).run()


def build(engine: Engine) -> uvicorn.Server:
    """Web server around an engine, not yet running; its end closes the engine."""
    settings = engine.settings
    config = uvicorn.Config(
        create_app(engine),
        host=settings.host,
        port=settings.port,
        http=_guarded(settings.limits.header_s),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Says when it is ready, and on which port."""

    @override
    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            line = json.dumps({"port": port, "protocol": VERSION_OF_PROTOCOL})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def _guarded(header_s: float) -> type[H11Protocol]:
    """Protocol that hangs up on who does not send a request in time."""

    class Guarded(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        @override
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._deadline = self.loop.call_later(header_s, self._hang_up)

        @override
        def handle_events(self) -> None:
            before = self.cycle
            super().handle_events()
            if self.cycle is not before and self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        @override
        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._deadline is None and not self.transport.is_closing():
                self._deadline = self.loop.call_later(3 * header_s, self._hang_up)

        @override
        def connection_lost(self, exc: Exception | None) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            super().connection_lost(exc)

        def _hang_up(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Guarded


def _allow_many_connections() -> None:
    """Raise the soft limit on open files, so that idle connections do not shut others out."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def default_state(port: int) -> Path | None:
    """Folder where work is kept on this machine; none for a port that is picked anew each time."""
    if port == 0:
        return None
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "segkit" / "serve" / str(port)
