"""Scene, controller and a server of one's own, put together; without Qt."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from . import marks
from .controller import Controller, State
from .jobs import Jobs
from .marks import Target
from .scene import Scene
from .serverproc import ServerProcess, ServerProcessError
from .worker import Worker


class Workbench:
    """What the panel does, in MRML terms.

    Results come while `poll` is called: by a timer, or in a loop of one's own.
    """

    def __init__(
        self,
        mrml: Any,
        *,
        on_change: Callable[[], None] = lambda: None,
        connect: Callable[..., Any] | None = None,
    ) -> None:
        self.scene = Scene(mrml)
        self.server: ServerProcess | None = None
        options = {} if connect is None else {"connect": connect}
        self.controller = Controller(self.scene, Worker(), on_change=on_change, **options)
        self.jobs = Jobs(self.controller, self.scene)
        self._is_connected_to_own = False

    def mark(self, target: Target, tool: str, markups: Any, label: int = 1) -> None:
        """Mark what a markups node holds: "points", "box", "scribble" or "lasso".

        Raises:
            MarkError: The mark is outside the volume, or has too few points.
            SceneError: A node is gone.
        """
        shape = self.scene.shape(target.volume)
        is_curve = tool in ("scribble", "lasso")
        read = self.scene.curve_points if is_curve else self.scene.control_points
        places = self.scene.to_voxels(target.volume, read(markups))
        if tool == "points":
            for place in places:
                self.controller.add(target, marks.click(place, shape, label))
        else:
            make = {"box": marks.box, "scribble": marks.scribble, "lasso": marks.lasso}[tool]
            self.controller.add(target, make(places, shape, label))

    def start_server(self, python: str, models: list[str], environment: Mapping[str, str]) -> None:
        """Start a server with a Python that has segkit; `poll` connects when it is ready.

        `environment` is that of the application before its launcher changed it.

        Raises:
            ServerProcessError: It cannot be started.
        """
        server = ServerProcess(python, models, environment)
        server.start()
        self.server, self._is_connected_to_own = server, False
        self.controller.turn(State.OFF, "the server is starting")

    def stop_server(self) -> None:
        """End the server that was started here."""
        self.controller.disconnect()
        self.wait()
        if self.server is not None:
            self.server.stop()
            self.server = None
        self.controller.turn(State.OFF, "the server was stopped")

    def poll(self, wait_s: float = 0.0) -> bool:
        """Take over what is ready; says whether to call again."""
        is_starting = self.server is not None and not self._is_connected_to_own
        if is_starting:
            try:
                if self.server.poll():
                    self._is_connected_to_own = True
                    self.controller.connect(self.server.url, self.server.token)
            except ServerProcessError as error:
                self.server = None
                self.controller.tell(error)
        return self.controller.poll(wait_s) or is_starting

    def wait(self, seconds: float = 60.0) -> bool:
        """Poll until nothing is under way; says whether that was reached."""
        end = time.monotonic() + seconds
        while self.poll(0.02):
            if time.monotonic() > end:
                return False
            if not self._is_connected_to_own:
                time.sleep(0.01)  # a server that starts is nothing the worker waits for
        return True

    def close(self) -> None:
        """Leave the server, end the one started here, tidy the scene."""
        self.controller.close()
        if self.server is not None:
            self.server.stop()
        self.scene.close()
