"""A server as a predictor: the same calls as the local ones."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .codec import CONTENT_TYPE, decode, encode
from .errors import BusyError, GoneError, RequestError, ServerError, VersionError
from .session import PREFIX, RemoteSession
from .transport import PROTOCOL, Transport

_FILE = "application/x-segkit-file"
_SUFFIXES = (
    ".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff",
    ".dcm",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
"""What recordings may be called."""


class RemoteImage:
    """An image that the server holds."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.id, self.shape = str(about["id"]), tuple(about["shape"])
        self.kind = str(about["kind"])


class RemoteClip:
    """A recording that the server holds; `frames` is None while nobody knows their number."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.id, self.shape = str(about["id"]), tuple(about["shape"])
        self.frames: int | None = about["frames"]


class RemotePredictor:
    """Models of a server. Use it in a `with` block, or call `close`.

    Images are sent as arrays with a frame, nothing else: no file name, no header, no DICOM tag.
    `lease` takes up the work of an earlier client, also after a restart of either side.

    Example:
        >>> predictor = RemotePredictor("http://127.0.0.1:1527")  # doctest: +SKIP
        >>> session = predictor.open(array, affine=affine)  # doctest: +SKIP
        >>> session.add_points([(40, 128, 90)], labels=[1]).mask().any()  # doctest: +SKIP

    Raises:
        UnreachableError: Nothing answers at the address.
        VersionError: It is no segkit server, or one of another version.
        AuthError: The token is missing or wrong.
        BusyError: All places are taken.
        GoneError: The lease is not known any more.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:1527",
        *,
        token: str = "",
        model: str | None = None,
        lease: str = "",
        timeout_s: float = 120.0,
        patience_s: float = 15.0,
    ) -> None:
        self.model = model
        self._url, self._token, self._timeout_s = url, token, timeout_s
        self._transport = Transport(url, token=token, timeout_s=timeout_s, patience_s=patience_s)
        self._closed = threading.Event()
        try:
            self._enter(lease)
        except ServerError:
            self._transport.close()
            raise
        self._beat(20.0)

    @property
    def lease(self) -> str:
        """Key to the work of this client; keep it to take the work up later."""
        return self._transport.lease

    def models(self) -> list[dict[str, Any]]:
        """Models with their versions, kinds and labels."""
        found: list[dict[str, Any]]
        found = self._transport.request("GET", f"{PREFIX}/models").json()["models"]
        return found

    def upload(
        self,
        source: np.ndarray | str | Path,
        *,
        affine: np.ndarray | None = None,
        spacing_mm: Sequence[float] | None = None,
        kind: str = "volume",
    ) -> RemoteImage:
        """Send an image: an array in array order with its frame, or a file.

        Raises:
            RequestError: The server cannot read it.
        """
        if isinstance(source, str | Path):
            return RemoteImage(self._send_file(f"{PREFIX}/volumes", Path(source), _SUFFIXES))
        meta: dict[str, Any] = {"kind": kind}
        if affine is not None:
            meta["affine"] = np.asarray(affine, dtype=np.float64).tolist()
        if spacing_mm is not None:
            meta["spacing_mm"] = [float(step) for step in spacing_mm]
        array = np.asarray(source)
        # on one machine, squeezing takes longer than sending
        encoding = "raw" if self._transport.is_loopback else "zlib"
        pieces = encode(array, encoding)
        path = f"{PREFIX}/volumes"
        answer = self._transport.request("POST", path, pieces, meta=meta, content_type=CONTENT_TYPE)
        return RemoteImage(answer.json())

    def open(
        self,
        source: np.ndarray | str | Path | RemoteImage,
        *,
        name: str = "object",
        model: str | None = None,
        **frame: Any,
    ) -> RemoteSession:
        """Start an object on an image that is sent, or was sent before.

        `frame` goes to `upload`. Several objects on one image share its embeddings.
        """
        image = source if isinstance(source, RemoteImage) else self.upload(source, **frame)
        wish = {"image": image.id, "name": name, "model": model or self.model}
        about = self._transport.post(f"{PREFIX}/sessions", wish).json()
        return RemoteSession(self._transport, about, image.id)

    def segment(
        self,
        image: RemoteImage,
        *,
        model: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Label map of an automatic model; `progress` gets slices done and their number."""
        wish = {"kind": "automatic", "image": image.id, "model": model or self.model}
        job = self._wait(self._transport.post(f"{PREFIX}/jobs", wish).json(), progress)
        answer = self._transport.request("GET", f"{PREFIX}/jobs/{job['id']}/labels")
        return decode(answer.body, max_bytes=8 * int(np.prod(image.shape))).copy()

    def upload_clip(
        self, source: np.ndarray | str | Path, *, spacing_mm: Sequence[float] | None = None
    ) -> RemoteClip:
        """Send a recording: frames (t, rows, columns[, 3]), or a video file.

        Raises:
            RequestError: The server cannot read it.
        """
        path = f"{PREFIX}/clips"
        if isinstance(source, str | Path):
            return RemoteClip(self._send_file(path, Path(source), VIDEO_SUFFIXES))
        meta = {} if spacing_mm is None else {"spacing_mm": [float(one) for one in spacing_mm]}
        encoding = "raw" if self._transport.is_loopback else "zlib"
        pieces = encode(np.asarray(source), encoding)
        answer = self._transport.request("POST", path, pieces, meta=meta, content_type=CONTENT_TYPE)
        return RemoteClip(answer.json())

    def track(
        self,
        source: RemoteClip | RemoteImage,
        seeds: Sequence[dict[str, Any]],
        *,
        model: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        **how: Any,
    ) -> np.ndarray:
        """Carry objects through a recording, or through the slices of a volume.

        A seed says what an object is on one frame: `{"object": 1, "frame": 0}` with "points" and
        "labels" (row, column), with a half-open "box" ((top, bottom), (left, right)), or with the
        id of a "session" on the volume. `how`: "axis" of the volume, "start", "stop", "direction".
        What comes back are object numbers: (frames, rows, columns), or on the grid of the volume.

        Raises:
            RequestError: No model of the server tracks, or a seed does not fit.
        """
        where = "clip" if isinstance(source, RemoteClip) else "image"
        wish = {where: source.id, "model": model, "seeds": list(seeds), **how}
        job = self._wait(self._transport.post(f"{PREFIX}/tracks", wish).json(), progress)
        answer = self._transport.request("GET", f"{PREFIX}/jobs/{job['id']}/labels")
        return decode(answer.body, max_bytes=2**32).copy()

    def learn(
        self,
        model: str,
        *,
        seconds: float = 25.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Learn a new version of a model from all accepted segmentations; says if it helped."""
        path = f"{PREFIX}/models/{model}/learn"
        job = self._wait(self._transport.post(path, {"seconds": seconds}).json(), progress)
        outcome: dict[str, Any] = job["outcome"]
        return outcome

    def choose(self, model: str, version: int) -> None:
        """Make a version of a model the current one; 0 is the one the server was started with."""
        self._transport.post(f"{PREFIX}/models/{model}/choose", {"version": version})

    def cancel(self) -> None:
        """Call off what the server computes for this client; from another thread."""
        other = self._second()
        try:
            other.post(f"{PREFIX}/cancel")
        finally:
            other.close()

    def drop(self, image: RemoteImage | RemoteClip) -> None:
        """Have the server overwrite and forget an image with all objects on it, or a recording."""
        kind = "clips" if isinstance(image, RemoteClip) else "volumes"
        self._transport.request("DELETE", f"{PREFIX}/{kind}/{image.id}")

    def close(self, *, keeps_work: bool = False) -> None:
        """Leave: the server forgets all, or parks it for `lease` to take up."""
        if self._closed.is_set():
            return
        self._closed.set()
        if not keeps_work:
            with contextlib.suppress(ServerError):
                self._transport.request("DELETE", f"{PREFIX}/leases")
        self._transport.close()

    def __enter__(self) -> "RemotePredictor":
        """Use in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave at the end of a `with` block."""
        self.close()

    def _enter(self, lease: str) -> None:
        check_version(self._transport)
        if lease:
            self._transport.lease = lease
            self._transport.post(f"{PREFIX}/heartbeat")
        else:
            about = self._transport.post(f"{PREFIX}/leases").json()
            self._transport.lease = str(about["lease"])

    def _send_file(self, where: str, path: Path, suffixes: Sequence[str]) -> dict[str, Any]:
        known = [suffix for suffix in suffixes if path.name.lower().endswith(suffix)]
        if not known:
            raise RequestError(f"unknown suffix {path.suffix!r}; known: {', '.join(suffixes)}")
        meta = {"suffix": max(known, key=len)}
        answer = self._transport.request(
            "POST", where, path.read_bytes(), meta=meta, content_type=_FILE
        )
        return answer.json()

    def _wait(
        self, job: dict[str, Any], progress: Callable[[int, int], None] | None
    ) -> dict[str, Any]:
        pause = 0.05
        while job["status"] in ("waiting", "running"):
            time.sleep(pause)
            pause = min(1.5 * pause, 1.0)
            job = self._transport.request("GET", f"{PREFIX}/jobs/{job['id']}").json()
            if progress is not None:
                progress(int(job["done"]), int(job["total"]))
        if job["status"] != "done":
            detail = str(job.get("detail", job["status"]))
            raise RequestError(detail, status=400, code=str(job.get("code", job["status"])))
        return job

    def _second(self) -> Transport:
        other = Transport(self._url, token=self._token, timeout_s=self._timeout_s, patience_s=2.0)
        other.lease = self._transport.lease
        return other

    def _beat(self, every_s: float) -> None:
        """Show a sign of life now and then, on a connection of its own."""
        beats = self._second()

        def run() -> None:
            while not self._closed.wait(every_s):
                try:
                    beats.post(f"{PREFIX}/heartbeat")
                except GoneError:
                    break  # the next call of the user says so
                except (ServerError, BusyError):
                    continue
            beats.close()

        threading.Thread(target=run, name="segkit-heartbeat", daemon=True).start()


def check_version(transport: Transport) -> None:
    """Ask who is there.

    Raises:
        VersionError: No segkit server, or one that speaks another protocol; both are named.
    """
    try:
        about = transport.request("GET", f"{PREFIX}/health").json()
        theirs = about["protocol"]
    except (RequestError, KeyError, TypeError, ValueError) as error:
        raise VersionError(
            "something else than `segkit serve` answers at this address", code="not_segkit"
        ) from error
    if theirs != PROTOCOL:
        raise VersionError(
            f"the server (segkit {about.get('version', 'unknown')}) speaks protocol {theirs}, this "
            f"client protocol {PROTOCOL}; install matching versions",
            code="protocol_mismatch",
        )
