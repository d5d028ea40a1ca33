"""Sequences of frames that clients send: recordings as files, or frames as an array."""

import contextlib
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.client.codec import Buffer
from segkit.data.video import ArrayFrames, FrameSource
from segkit.data.video_file import VIDEO_SUFFIXES, VideoFile
from segkit.serve.faults import bad
from segkit.serve.images import FileAbout, decode_any
from segkit.serve.messages import Message, Number


class ClipAbout(Message):
    """What comes with frames as an array: millimetres between rows and between columns."""

    spacing_mm: tuple[Number, Number] | None = None


@dataclass(slots=True, eq=False)
class Clip:
    """A sequence of one client. `payload` and `about` are enough to build it again.

    A recording stays compressed, in a private file that goes with the clip.
    """

    source: FrameSource
    payload: Buffer
    about: dict[str, object]
    path: Path | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes in memory."""
        held = self.source.array.nbytes if isinstance(self.source, ArrayFrames) else 0
        return held + len(self.payload)

    def describe(self) -> dict[str, object]:
        """What a client may know; `frames` is None while nobody knows."""
        return {"kind": "clip", "frames": self.source.count, "shape": list(self.source.size)}

    def wipe(self) -> None:
        """Overwrite what belongs to the patient, and delete its file."""
        self.source.close()
        if isinstance(self.source, ArrayFrames) and self.source.array.flags.writeable:
            self.source.array.fill(0)
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def from_frames(data: Buffer, about: ClipAbout, *, max_bytes: int) -> Clip:
    """Clip of an array (frames, rows, columns[, 3]).

    Raises:
        CodecError: The bytes are damaged, or too large.
        InputError: The array is no sequence of frames.
        Refusal: A pixel is NaN or infinite, or a spacing is not above zero.
    """
    array = decode_any(data, max_bytes=max_bytes)
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise bad("the frames hold NaN or infinite pixels; replace them", "not_finite")
    source = ArrayFrames(array)
    if about.spacing_mm is not None:
        if min(about.spacing_mm) <= 0:
            raise bad("spacing_mm of frames must be two numbers > 0", "bad_spacing")
        source.spacing_mm = about.spacing_mm
    return Clip(source, data, about.model_dump(mode="json"))


def from_recording(data: Buffer, about: FileAbout, folder: Path) -> Clip:
    """Clip of a video file; `suffix` chooses the reader and is all that is used of its name.

    Raises:
        InputError: It cannot be read as it is.
        Refusal: The suffix is not one that is known.
    """
    suffix = about.suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise bad(f"unknown suffix; known: {', '.join(VIDEO_SUFFIXES)}", "bad_suffix")
    path = folder / f"clip-{secrets.token_hex(8)}{suffix}"
    path.touch(mode=0o600)
    try:
        path.write_bytes(data)
        source = VideoFile(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Clip(source, data, {"suffix": suffix}, path)


def rebuild_clip(data: bytes, about: dict[str, object], folder: Path, *, max_bytes: int) -> Clip:
    """Clip from what was stored of it."""
    if "suffix" in about:
        return from_recording(data, FileAbout.model_validate(about), folder)
    return from_frames(bytearray(data), ClipAbout.model_validate(about), max_bytes=max_bytes)
