"""A stand-in for a server that needs no model: for the self-test inside Slicer, and for tests."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .marks import Edges

RADIUS = 3


class RehearsalPredictor:
    """Answers as `RemotePredictor` does: balls around clicks, boxes and drawings as they are."""

    def __init__(self, url: str = "", *, token: str = "", **_: object) -> None:
        self.url, self.token = url, token
        self.uploads: list[np.ndarray] = []
        self.lease = "rehearsal"

    def models(self) -> list[dict[str, Any]]:
        """One model that takes prompts and one that does not."""
        common = {"version": 0, "versions": [0], "dimensions": 2}
        return [
            {"name": "balls", "kind": "interactive", "labels": {}, **common},
            {"name": "bright", "kind": "automatic", "labels": {"1": "bright"}, **common},
        ]

    def upload(self, array: np.ndarray, *, affine: np.ndarray) -> np.ndarray:
        """Take an image; `affine` is of no use here."""
        del affine
        self.uploads.append(array)
        return array

    def open(self, image: np.ndarray, *, model: str | None = None) -> "RehearsalSession":
        """Start an object."""
        return RehearsalSession(image.shape, model or "balls")

    def segment(
        self,
        image: np.ndarray,
        *,
        model: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Call everything above the middle of the grey values bright."""
        del model
        if progress is not None:
            progress(len(image), len(image))
        return (image > (float(image.min()) + float(image.max())) / 2).astype(np.uint8)

    def drop(self, image: np.ndarray) -> None:
        """Forget an image."""
        self.uploads = [one for one in self.uploads if one is not image]

    def cancel(self) -> None:
        """Nothing takes long here."""

    def close(self, *, keeps_work: bool = False) -> None:
        """Nothing is kept here."""
        del keeps_work


class RehearsalSession:
    """One object: its mask is the sum of what was marked, and what was cleared is away."""

    def __init__(self, shape: tuple[int, ...], model: str) -> None:
        self.shape, self.model = shape, model
        self.runs_at_once = True
        self._states, self._at = [np.zeros(shape, bool)], 0
        self._shown = self._states[0]
        self._changed: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def add_points(self, points: list[tuple[float, ...]], labels: list[int]) -> None:
        """Set or clear a ball around each point."""
        grid = np.indices(self.shape, sparse=True)
        for point, label in zip(points, labels, strict=True):
            far = sum((axis - at) ** 2 for axis, at in zip(grid, point, strict=True))
            self._set(far <= RADIUS**2, label)

    def add_box(self, box: tuple[tuple[int, ...], tuple[int, ...]], label: int = 1) -> None:
        """Set or clear a box."""
        region = np.zeros(self.shape, bool)
        region[tuple(slice(*edge) for edge in zip(*box, strict=True))] = True
        self._set(region, label)

    def add_scribble(self, scribble: np.ndarray, label: int, *, box: Edges) -> None:
        """Set or clear what was drawn."""
        region = np.zeros(self.shape, bool)
        region[tuple(slice(*edge) for edge in box)] = scribble
        self._set(region, label)

    add_lasso = add_scribble

    def add_mask(self, mask: np.ndarray) -> None:
        """Start from a mask."""
        self._append(mask.copy())

    def propagate(self, *, start: int, stop: int) -> None:
        """Repeat the outline of all slices on slices `start` to before `stop`."""
        region = np.zeros(self.shape, bool)
        region[start:stop] = self._states[self._at].any(axis=0)
        self._set(region, 1)

    def undo(self) -> None:
        """Take the last step back."""
        self._at = max(self._at - 1, 0)
        self._show()

    def redo(self) -> None:
        """Repeat it."""
        self._at = min(self._at + 1, len(self._states) - 1)
        self._show()

    def reset(self) -> None:
        """Start anew."""
        self._append(np.zeros(self.shape, bool))

    def mask(self) -> np.ndarray:
        """The mask as it was shown last."""
        return self._shown

    def changed_box(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Half-open box of what the last call changed."""
        return self._changed

    def accept(self, mask: np.ndarray | None = None) -> str:
        """Nothing is learned here."""
        del mask
        return "rehearsal"

    def close(self) -> None:
        """Nothing is held here."""

    def _set(self, region: np.ndarray, label: int) -> None:
        mask = self._states[self._at]
        self._append(mask | region if label else mask & ~region)

    def _append(self, mask: np.ndarray) -> None:
        self._states = [*self._states[: self._at + 1], mask]
        self._at += 1
        if self.runs_at_once:
            self._show()
        else:
            self._changed = None

    def _show(self) -> None:
        mask = self._states[self._at]
        places = np.argwhere(mask != self._shown)
        self._changed = None
        if len(places):
            self._changed = tuple(places.min(axis=0)), tuple(places.max(axis=0) + 1)
        self._shown = mask
