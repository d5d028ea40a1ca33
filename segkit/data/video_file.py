"""Video files, decoded frame by frame as they are asked for."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from typing_extensions import override

from segkit.data.files import COPY_AGAIN, RegularFile
from segkit.data.video import EndOfFramesError, FrameSource
from segkit.data.volume import Picture
from segkit.errors import InputError, MissingExtraError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
_STEADY = 1.5  # ratio of the longest to the shortest interval of a constant frame rate


class VideoFile(FrameSource):
    """MP4, MOV, AVI, Matroska or WebM.

    Nothing but the header is read before the first frame is asked for, and the number of frames is
    known only at the end: headers say how many there should be. Going back means seeking to a key
    frame and decoding from there; `kept` frames are held for that, as 8-bit colours.

    A file that ends early, or is damaged from some frame on, gives the frames before and a note.
    Frames are as stored: a rotation in the header is noted, not applied. Times are those of the
    file, so a variable frame rate loses nothing; it is noted.

    Raises:
        MissingExtraError: PyAV is not installed.
        InputError: The file is absent, no video of these kinds, or cut before its first frame.
    """

    def __init__(self, path: str | Path, *, kept: int = 8) -> None:
        super().__init__()
        self.path, self._kept = Path(path), kept
        self._av = import_av()
        with RegularFile(self.path) as source:
            self._format = _format_of(source.peek(16), self.path)
        self._recent: OrderedDict[int, UInt8[np.ndarray, "h w 3"]] = OrderedDict()
        self._pts: list[int | None] = []  # of every frame seen so far
        self._open()
        self._announced = int(self._stream.frames)
        first = self._frame(0)
        if first is None:
            raise InputError(
                "holds no frame that can be decoded", fix=COPY_AGAIN, path=self.path,
                code="truncated",
            )  # fmt: skip
        self.size = (first.shape[0], first.shape[1])

    @override
    def read(self, index: int) -> Picture:
        is_known = self.count is None or index < self.count
        array = self._frame(index) if index >= 0 and is_known else None
        if array is None:
            raise EndOfFramesError(index, self)
        self._check(array, index)
        return Picture(array, self.path)

    @override
    def time_s(self, index: int) -> float | None:
        if index >= len(self._pts):
            return None
        first, pts, base = self._pts[0], self._pts[index], self._stream.time_base
        if first is not None and pts is not None and base is not None:
            return float((pts - first) * base)
        rate = self._stream.average_rate
        return float(index / rate) if rate else None

    @override
    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        try:
            self._container: Any = self._av.open(str(self.path), format=self._format)
            self._stream = self._container.streams.video[0]
        except (self._av.FFmpegError, IndexError, ValueError) as error:
            raise InputError(
                "cannot be opened as a video: cut off, damaged or without a picture track",
                fix=COPY_AGAIN,
                path=self.path,
                code="truncated",
            ) from error
        self._next = 0
        self._frames: Iterator[Any] = self._container.decode(self._stream)

    def _frame(self, index: int) -> UInt8[np.ndarray, "h w 3"] | None:
        if index in self._recent:
            return self._recent[index]
        if index < self._next:
            self._seek(max(0, index + 1 - self._kept))
        while self._next <= index:
            if not self._advance():
                return None
        return self._recent.get(index)

    def _advance(self) -> bool:
        """Decode the next frame; false at the end."""
        try:
            frame = next(self._frames, None)
        except self._av.FFmpegError:
            frame = None
            self._note(f"damaged behind frame {self._next - 1}: what follows is not read")
        if frame is None:
            self._finish()
            return False
        if self._next == len(self._pts):
            self._pts.append(frame.pts)
            if self._next == 0 and getattr(frame, "rotation", False):
                self._note(f"rotation by {frame.rotation} degrees in the header is not applied")
        self._recent[self._next] = frame.to_ndarray(format="rgb24")
        self._next += 1
        while len(self._recent) > self._kept:
            self._recent.popitem(last=False)
        return True

    def _seek(self, index: int) -> None:
        """Continue decoding at an earlier frame, so that `index` comes next."""
        self._recent.clear()
        target = self._pts[index]
        if index and target is not None and self._pts.count(target) == 1:
            self._container.seek(target, stream=self._stream, backward=True)
            self._frames = self._container.decode(self._stream)
            frame = next(self._frames, None)
            if frame is not None and frame.pts in self._pts[: index + 1]:
                self._next = self._pts.index(frame.pts)
                self._recent[self._next] = frame.to_ndarray(format="rgb24")
                self._next += 1
                return
        # no key frame to go to, or no times to find it by
        self._container.close()
        self._open()

    def _finish(self) -> None:
        self.count = len(self._pts)
        if self.count < self._announced:
            self._note(
                f"ends behind frame {self.count - 1}: the header announces {self._announced} "
                f"frames, {self.count} can be decoded"
            )
        times = np.array([pts for pts in self._pts if pts is not None])
        steps = np.diff(times)
        if len(steps) > 1 and len(times) == self.count and steps.min() > 0:
            base = 1000 * float(self._stream.time_base)
            if steps.max() > _STEADY * steps.min():
                self._note(
                    f"variable frame rate: {steps.min() * base:.0f} to {steps.max() * base:.0f} ms "
                    "between frames; times are those of the file"
                )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def is_video(path: Path) -> bool:
    """Whether the name is that of a video file."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def import_av() -> Any:
    """Import PyAV.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    return av


def _format_of(head: bytes, path: Path) -> str:
    """Name the container by its first bytes; playlists, which name other files, are refused."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    raise InputError(
        f"is no video that is read here: starts with {head[:8]!r}",
        fix="convert it to MP4, AVI, Matroska or WebM",
        path=path,
        code="no_video",
    )
