"""What happens between a mark and a changed segment; no Qt, no VTK.

The application's thread calls everything here and polls; the worker's thread alone talks to the
server. Marks wait in line and go to the server together when it is free, so that quick clicks cost
one computation. The segment in the scene is the truth: what was edited there by hand is sent to
the server before the next mark, and all work survives a lost server.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .client import GoneError, RemotePredictor, RequestError, ServerError, UnreachableError
from .link import Change, Key, Link, Order, Stamp
from .marks import Mark, MarkError, Propagate, SceneError, Target
from .serverproc import ServerProcessError

if TYPE_CHECKING:
    from .scene import Scene
    from .worker import Worker

LOOPBACK = ("127.0.0.1", "localhost", "::1")


KNOWN_ERRORS = (ServerError, ServerProcessError, SceneError, MarkError, ValueError, OSError)


class State(Enum):
    """Where the connection stands."""

    OFF = "not connected"
    CONNECTING = "connecting"
    READY = "ready"
    BUSY = "computing"


class ConsentError(Exception):
    """Images would leave this machine, and the user was not asked yet."""


class Controller:
    """State machine of the extension.

    Args:
        scene: Where images come from and segments go.
        worker: Runs what waits for the server.
        connect: Makes a predictor of an address; another one in tests.
        on_change: Called when state, message or models changed.
    """

    def __init__(
        self,
        scene: "Scene",
        worker: "Worker",
        *,
        connect: Callable[..., Any] = RemotePredictor,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.state, self.message, self.is_error = State.OFF, "", False
        self.models: list[dict[str, Any]] = []
        self.model = ""
        self.progress: tuple[int, int] | None = None
        self._scene, self._worker, self._connect = scene, worker, connect
        self._on_change = on_change
        self._link: Link | None = None
        self._address = ("", "")
        self._waiting: deque[tuple[Target, Mark]] = deque()
        self._is_paused = False

    @property
    def waiting(self) -> int:
        """Marks that were not sent yet."""
        return len(self._waiting)

    def names(self, kind: str) -> list[str]:
        """Models of a kind: "interactive" or "automatic"."""
        return [str(model["name"]) for model in self.models if model["kind"] == kind]

    def connect(self, url: str, token: str = "", *, has_consent: bool = False) -> None:
        """Connect to a server.

        Raises:
            ConsentError: It is on another machine, and the user did not agree to send images there.
        """
        if is_elsewhere(url) and not has_consent:
            raise ConsentError(url)
        self.disconnect()
        self._address = (url, token)
        self._enter(f"connecting to {url}")

    def check(self, url: str, token: str = "") -> None:
        """Ask a server who it is, without sending anything of the scene."""

        def ask() -> list[str]:
            remote = self._connect(url, token=token, patience_s=1.0)
            try:
                return [str(model["name"]) for model in remote.models()]
            finally:
                remote.close()

        def told(names: list[str]) -> None:
            self._say(f"{url} answers; models: {', '.join(names)}")

        self._worker.submit(ask, told, self.tell)

    def disconnect(self) -> None:
        """Leave the server; it forgets the images. Segments stay as they are."""
        link, self._link = self._link, None
        self._waiting.clear()
        self._is_paused = False
        self.turn(State.OFF, "not connected")
        if link is not None:
            self._worker.submit(link.remote.close, lambda _: None, self.tell)

    def add(self, target: Target, mark: Mark) -> None:
        """Take a mark; it is sent when the server is free."""
        if self.state is not State.CONNECTING and self._connected() is None:
            return
        self._waiting.append((target, mark))
        self.retry()

    def retry(self) -> None:
        """Send what waits, after the server was out of reach."""
        self._is_paused = False
        self._dispatch()

    def undo(self, target: Target) -> None:
        """Take back the last mark on a segment, also what it did to its neighbours."""
        self._go(target, "undo")

    def redo(self, target: Target) -> None:
        """Repeat what `undo` took back."""
        self._go(target, "redo")

    def cancel(self) -> None:
        """Call off what the server computes, and what waits."""
        self._waiting.clear()
        link = self._link
        if link is not None and self._worker.is_busy:
            self._say("cancelling")

            def call_off() -> None:
                # the request under way says what is wrong
                with contextlib.suppress(ServerError):
                    link.remote.cancel()

            threading.Thread(target=call_off, daemon=True).start()

    def poll(self, wait_s: float = 0.0) -> bool:
        """Take results over and send what waits; says whether there is more to come."""
        self._worker.poll(wait_s)
        self._dispatch()
        return bool(self._worker.is_busy)

    def close(self) -> None:
        """Leave; nothing is called back any more."""
        self._on_change = lambda: None
        link, self._link = self._link, None
        if link is not None:
            threading.Thread(target=link.remote.close, daemon=True).start()
        self._worker.stop()

    def _dispatch(self) -> None:
        while self._waiting and not self._is_paused and not self._worker.is_busy:
            if self._link is None:
                return
            target = self._waiting[0][0]
            marks = []
            while self._waiting and self._waiting[0][0] == target:
                marks.append(self._waiting.popleft()[1])
            try:
                order = self._order(self._link, target)
            except SceneError as error:
                self.tell(error)
                continue
            self._send(self._link, order, marks)

    def _order(self, link: Link, target: Target) -> Order:
        self._scene.prepare(target)
        key = Key(target, self._scene.volume_stamp(target.volume), self.model)
        found = link.objects.get(key)
        is_edited = found is not None and self._scene.stamp(target) != found.shown
        seed = None
        if found is None or is_edited:
            held = self._scene.mask(target)
            seed = held if held.any() else None
        return Order(key, self._image(link, key.stamp), seed, is_edited)

    def _image(self, link: Link, stamp: Stamp) -> Any:
        """The volume's voxels if the server does not have them yet."""
        return None if stamp in link.images else self._scene.image(str(stamp[0]))

    def _send(self, link: Link, order: Order, marks: list[Mark]) -> None:
        is_long = order.image is not None or any(isinstance(one, Propagate) for one in marks)
        message = "computing" if order.image is None else "sending the volume"
        self.turn(State.BUSY, message, progress=(0, 0) if is_long else None)
        self._worker.submit(
            partial(link.ask, order, marks),
            partial(self._show, link, order.key, len(marks)),
            partial(self._not_marked, link, order, marks),
        )

    def _show(self, link: Link, key: Key, count: int, change: Change) -> None:
        found = link.objects[key]
        found.undone = 0
        try:
            has_written = self._write(key.target, change)
            found.shown = self._scene.stamp(key.target)
        except SceneError as error:
            link.drop(key)
            self.tell(error)
            return
        found.steps += [False] * (count - 1) + [has_written and count == 1]
        self.turn(State.READY, "ready" if has_written else "nothing changed")

    def _write(self, target: Target, change: Change) -> bool:
        if change.edges is None or change.content is None:
            return False
        return self._scene.write(target, change.edges, change.content)

    def _go(self, target: Target, action: str) -> None:
        """Undo or redo on the server, then in the scene."""
        link = self._link
        if link is None or self._worker.is_busy:
            self._say("wait for the server to be ready", is_error=True)
            return
        try:
            key = Key(target, self._scene.volume_stamp(target.volume), self.model)
            stamp = self._scene.stamp(target)
        except SceneError as error:
            self.tell(error)
            return
        found = link.objects.get(key)
        if found is None or not (found.steps if action == "undo" else found.undone):
            self._say(f"nothing to {action} on this segment")
        elif stamp != found.shown:
            self._say("the segment was edited since; use undo of the Segment Editor")
        else:
            self.turn(State.BUSY, action)
            done = partial(self._went, link, key, action)
            self._worker.submit(partial(link.act, found, action), done, self._failed)

    def _went(self, link: Link, key: Key, action: str, change: Change) -> None:
        found = link.objects[key]
        try:
            if action == "redo":
                found.undone -= 1
                found.steps.append(self._write(key.target, change))
            else:
                found.undone += 1
                is_native = found.steps.pop()
                if not (is_native and self._scene.restore(key.target)):
                    self._write(key.target, change)
            found.shown = self._scene.stamp(key.target)
        except SceneError as error:
            link.drop(key)
            self.tell(error)
            return
        self.turn(State.READY, "ready")

    def with_image(
        self,
        volume_id: str,
        work: Callable[[Link, Stamp, Any], Any],
        done: Callable[[Any], None],
        message: str,
    ) -> None:
        """Run work that needs the image on the server."""
        link = self._connected()
        if link is None:
            return
        try:
            stamp = self._scene.volume_stamp(volume_id)
            image = self._image(link, stamp)
        except SceneError as error:
            self.tell(error)
            return

        def shown(result: Any) -> None:
            try:
                done(result)
            except SceneError as error:
                self.tell(error)

        self.turn(State.BUSY, message, progress=(0, 0))
        self._worker.submit(partial(work, link, stamp, image), shown, self._failed)

    def change_model(
        self, work: Callable[[Link], Any], done: Callable[[Any], None], message: str
    ) -> None:
        """Run work that changes versions; sessions stay on theirs, so begin anew from segments."""
        link = self._connected()
        if link is None:
            return

        def ask() -> tuple[Any, list[dict[str, Any]]]:
            return work(link), link.remote.models()

        def shown(result: tuple[Any, list[dict[str, Any]]]) -> None:
            self.models = result[1]
            link.drop_all()
            done(result[0])

        self.turn(State.BUSY, message, progress=(0, 0))
        self._worker.submit(ask, shown, self._failed)

    def _connected(self) -> Link | None:
        if self._link is None:
            self._say("connect to a server first", is_error=True)
        return self._link

    def _enter(self, message: str) -> None:
        url, token = self._address

        def enter() -> tuple[Any, list[dict[str, Any]]]:
            remote = self._connect(url, token=token)
            return remote, remote.models()

        def entered(result: tuple[Any, list[dict[str, Any]]]) -> None:
            self._link, self.models = Link(result[0]), result[1]
            names = self.names("interactive")
            if self.model not in names:
                self.model = names[0] if names else ""
            self.turn(State.READY, f"connected; models: {', '.join(m['name'] for m in result[1])}")

        def refused(error: BaseException) -> None:
            self._link = None
            self.tell(error)

        self.turn(State.CONNECTING, message)
        self._worker.submit(enter, entered, refused)

    def _not_marked(
        self, link: Link, order: Order, marks: list[Mark], error: BaseException
    ) -> None:
        """Marks that did not arrive are kept where that helps."""
        if isinstance(error, UnreachableError | GoneError) and link is self._link:
            self._waiting.extendleft((order.key.target, mark) for mark in reversed(marks))
            self._is_paused = isinstance(error, UnreachableError)
        is_cancelled = getattr(error, "code", "") == "cancelled"
        if not isinstance(error, RequestError) or len(marks) > 1 or is_cancelled:
            # what the server took of them is not known: begin anew from the segment
            link.drop(order.key)
        self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, GoneError) and self._link is not None:
            # the next mark sends image and segment again
            self._link.remote.close(keeps_work=True)
            self._link = None
            self._enter("the server has forgotten this client; connecting anew")
            return
        self.tell(error)

    def tell(self, error: BaseException) -> None:
        """Show an error that the user can act on; others are faults of this program."""
        self.turn(State.READY, str(error) or type(error).__name__, is_error=True)
        if not isinstance(error, KNOWN_ERRORS):
            raise error

    def turn(
        self,
        state: State,
        message: str,
        *,
        is_error: bool = False,
        progress: tuple[int, int] | None = None,
    ) -> None:
        """Change the state and say why."""
        # an answer may come after the connection was given up
        is_left = state is State.READY and self._link is None
        self.state, self.progress = State.OFF if is_left else state, progress
        self._say(message, is_error=is_error)

    def _say(self, message: str, *, is_error: bool = False) -> None:
        self.message, self.is_error = message, is_error
        self._on_change()

    def step(self, done: int, total: int) -> None:
        """Called on the worker's thread: the next poll shows it."""
        self.progress = (done, total)


def is_elsewhere(url: str) -> bool:
    """Whether an address is on another machine."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return parts.hostname not in LOOPBACK
