"""What the server knows of the scene: images and sessions; for the worker's thread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .marks import Edges, Mark, Target

MAX_IMAGES, MAX_SESSIONS = 4, 24
"""Below the limits of a server, so that the oldest make room instead of the newest failing."""

Stamp = tuple[object, ...]


@dataclass(frozen=True)
class Key:
    """What a session belongs to; `stamp` names the state of the volume, its id first."""

    target: Target
    stamp: Stamp
    model: str


@dataclass
class Object:
    """A session.

    `steps` says of each action that can be undone whether the editor recorded it too; `shown` is
    the stamp of the segment after the last one.
    """

    session: Any
    steps: list[bool] = field(default_factory=list)
    undone: int = 0
    shown: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Order:
    """What was read from the scene for some marks: `image` and `seed` only if they must be sent."""

    key: Key
    image: Any = None
    seed: np.ndarray | None = None
    is_edited: bool = False


@dataclass(frozen=True)
class Change:
    """What an action changed: content of a box, None if nothing."""

    edges: Edges | None
    content: np.ndarray | None


class Link:
    """A connection with what was sent through it."""

    def __init__(self, remote: Any) -> None:
        self.remote = remote
        self.images: dict[Stamp, Any] = {}
        self.objects: dict[Key, Object] = {}
        self._stale: list[Any] = []

    def upload(self, stamp: Stamp, image: Any) -> Any:
        """Image on the server; sent if it is not there, and older states of the volume dropped."""
        if stamp not in self.images:
            for old in list(self.images):
                if old[0] == stamp[0] or len(self.images) >= MAX_IMAGES:
                    self.remote.drop(self.images.pop(old))
                    for key in [key for key in self.objects if key.stamp == old]:
                        del self.objects[key]
            self.images[stamp] = self.remote.upload(image.array, affine=image.affine)
        return self.images[stamp]

    def ask(self, order: Order, marks: Sequence[Mark]) -> Change:
        """Say marks to the session they belong to; only the last one is computed."""
        image = self.upload(order.key.stamp, order.image)
        self._close_stale()
        found = self.objects.get(order.key)
        if found is None:
            session = self.remote.open(image, model=order.key.model or None)
            found = self.objects[order.key] = Object(session)
        session = found.session
        session.runs_at_once = False
        if order.seed is not None:
            session.add_mask(order.seed)
            found.steps.clear()
        elif order.is_edited:
            session.reset()
            found.steps.clear()
        for mark in marks[:-1]:
            mark.send(session)
        session.runs_at_once = True
        marks[-1].send(session)
        return _change_of(session)

    def act(self, found: Object, action: str) -> Change:
        """Undo or redo."""
        getattr(found.session, action)()
        return _change_of(found.session)

    def accept(self, stamp: Stamp, image: Any, model: str, mask: np.ndarray) -> str:
        """Call a mask right."""
        session = self.remote.open(self.upload(stamp, image), model=model)
        label = str(session.accept(mask))
        session.close()
        return label

    def segment(
        self, stamp: Stamp, image: Any, model: str, step: Callable[[int, int], None]
    ) -> np.ndarray:
        """Label map of an automatic model."""
        sent = self.upload(stamp, image)
        labels: np.ndarray = self.remote.segment(sent, model=model, progress=step)
        return labels

    def drop(self, key: Key) -> None:
        """Begin anew with a segment; any thread. The session is closed later."""
        if (found := self.objects.pop(key, None)) is not None:
            self._stale.append(found.session)

    def drop_all(self) -> None:
        """Begin anew with all segments; any thread."""
        for key in list(self.objects):
            self.drop(key)

    def _close_stale(self) -> None:
        while len(self.objects) >= MAX_SESSIONS:
            self.drop(next(iter(self.objects)))
        while self._stale:
            self._stale.pop().close()


def _change_of(session: Any) -> Change:
    box = session.changed_box()
    if box is None:
        return Change(None, None)
    edges = tuple((int(low), int(high)) for low, high in zip(*box, strict=True))
    content = np.array(session.mask()[tuple(slice(*edge) for edge in edges)], bool)
    return Change(edges, content)
