"""One object on one image, as the local sessions offer it; the mask is mirrored here.

Coordinates are voxel indices in array order, (k, j, i) for volumes and (row, column) for pictures;
boxes are half-open.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .codec import CONTENT_TYPE, decode, encode
from .errors import RequestError
from .transport import Answer, Transport

Numbers = Sequence[float]
Edges = tuple[tuple[int, int], ...]
PREFIX = "/segkit/v1"


class RemoteSession:
    """Prompts and mask of one object.

    Every call is computed at once, unless `runs_at_once` is set to false; then `update` computes.
    `mask` costs nothing: only what changed comes over the wire.
    """

    def __init__(self, transport: Transport, about: dict[str, Any], image_id: str) -> None:
        self._transport, self.id, self.image_id = transport, str(about["id"]), image_id
        self.model = str(about["model"])
        self.runs_at_once = True
        self._mask = np.zeros(tuple(about["shape"]), dtype=bool)
        self._changed: Edges | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image in array order."""
        return self._mask.shape

    def add_points(
        self, points: Sequence[Numbers], labels: Sequence[int], *, space: str = "voxel"
    ) -> "RemoteSession":
        """Add clicks: 1 adds, 0 removes; `space` is "voxel", or "ras" or "lps" millimetres.

        Raises:
            RequestError: A point lies outside the image, or is no point.
        """
        places = [[float(value) for value in point] for point in points]
        return self._prompt(
            {"kind": "points", "points": places, "labels": list(map(int, labels)), "space": space}
        )

    def add_box(self, box: tuple[Numbers, Numbers], label: int = 1) -> "RemoteSession":
        """Add a half-open box (first, last); label 0 clears what is inside."""
        first, last = box
        edges = [[float(a), float(b)] for a, b in zip(first, last, strict=True)]
        return self._prompt({"kind": "box", "box": edges, "label": label})

    def add_scribble(
        self, scribble: np.ndarray, label: int = 1, *, box: Edges | None = None
    ) -> "RemoteSession":
        """Add what was drawn: voxels of the whole image, or of `box`."""
        return self._draw("scribble", scribble, label, box)

    def add_lasso(
        self, lasso: np.ndarray, label: int = 1, *, box: Edges | None = None
    ) -> "RemoteSession":
        """Add what a closed line encloses: voxels of the whole image, or of `box`."""
        return self._draw("lasso", lasso, label, box)

    def add_mask(self, mask: np.ndarray) -> "RemoteSession":
        """Start from an existing mask; earlier prompts count no more."""
        return self._draw("mask", mask, 1, None)

    def propagate(
        self,
        *,
        start: int | None = None,
        stop: int | None = None,
        hints: Sequence[str] = ("box",),
    ) -> "RemoteSession":
        """Carry the masks of marked slices to the others, from slice `start` to before `stop`."""
        about = {"kind": "propagate", "start": start, "stop": stop, "hints": list(hints)}
        return self._prompt(about)

    def undo(self) -> "RemoteSession":
        """Take the last action back; without one, nothing happens."""
        return self._apply(self._transport.post(f"{self._path}/undo"))

    def redo(self) -> "RemoteSession":
        """Repeat what `undo` took back."""
        return self._apply(self._transport.post(f"{self._path}/redo"))

    def reset(self) -> "RemoteSession":
        """Take all actions back."""
        return self._apply(self._transport.post(f"{self._path}/reset"))

    def update(self) -> "RemoteSession":
        """Compute what was added while `runs_at_once` was false."""
        return self._apply(self._transport.post(f"{self._path}/run"))

    def changed_box(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Half-open voxel box (first, last) of what the last call changed; None if nothing."""
        if self._changed is None:
            return None
        first, last = zip(*self._changed, strict=True)
        return first, last

    def mask(self) -> np.ndarray:
        """Mask on the grid of the image; do not write into it."""
        view = self._mask.view()
        view.flags.writeable = False
        return view

    def fetch(self) -> np.ndarray:
        """Take the whole mask from the server, for example after reconnecting."""
        answer = self._transport.request("GET", f"{self._path}/mask")
        self._mask = decode(answer.body, max_bytes=self._mask.nbytes).copy()
        self._changed = tuple((0, size) for size in self.shape)
        return self.mask()

    def scores(self) -> dict[int, float]:
        """Predicted IoU by slice."""
        found = self._transport.request("GET", f"{self._path}/scores").json()["iou"]
        return {int(index): float(iou) for index, iou in found.items()}

    def measurements(self) -> dict[str, Any]:
        """Volume, surface and diameters, as `segkit measure` gives them."""
        return self._transport.request("GET", f"{self._path}/measurements").json()

    def save(self, path: str | Path) -> Path:
        """Write the mask on the image's own grid; the suffix chooses the format."""
        path = Path(path)
        suffix = "".join(path.suffixes[-2:]) if path.suffix in (".gz", ".nrrd") else path.suffix
        suffix = suffix if suffix in (".nii.gz", ".seg.nrrd") else path.suffix
        answer = self._transport.request("GET", f"{self._path}/file?suffix={suffix}")
        path.write_bytes(answer.body)
        return path

    def accept(self, mask: np.ndarray | None = None) -> str:
        """Call the mask right, as it is or as corrected, so that the server may learn from it."""
        body = [] if mask is None else encode(np.asarray(mask) != 0, "bits")
        answer = self._transport.request(
            "POST", f"{self._path}/accept", body, content_type=CONTENT_TYPE
        )
        return str(answer.json()["label"])

    def close(self) -> None:
        """Forget the object on the server; without effect if it is gone."""
        with contextlib.suppress(RequestError):
            self._transport.request("DELETE", self._path)

    @property
    def _path(self) -> str:
        return f"{PREFIX}/sessions/{self.id}"

    def _prompt(self, prompt: dict[str, Any]) -> "RemoteSession":
        about = {"prompt": prompt, "run": self.runs_at_once}
        return self._apply(self._transport.post(f"{self._path}/prompts", about))

    def _draw(self, kind: str, drawn: np.ndarray, label: int, box: Edges | None) -> "RemoteSession":
        prompt: dict[str, Any] = {"kind": kind, "label": label, "box": box}
        return self._apply(
            self._transport.request(
                "POST",
                f"{self._path}/prompts",
                encode(np.asarray(drawn) != 0, "bits"),
                meta={"prompt": prompt, "run": self.runs_at_once},
                content_type=CONTENT_TYPE,
            )
        )

    def _apply(self, answer: Answer) -> "RemoteSession":
        box = answer.meta.get("box")
        self._changed = None if box is None else tuple((low, high) for low, high in box)
        if self._changed is not None:
            content = decode(answer.body, max_bytes=self._mask.nbytes)
            self._mask[tuple(slice(*edge) for edge in self._changed)] = content
        return self
