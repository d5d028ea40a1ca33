"""A block of raw voxels inside a plain or compressed file, read without a second copy."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from segkit.data.files import (
    COPY_AGAIN,
    DeflateStream,
    RegularFile,
    Stream,
    check_budget,
    check_inflated,
    check_length,
)
from segkit.data.options import ReadOptions
from segkit.errors import InputError


@dataclass(frozen=True, slots=True)
class Block:
    """Where voxels lie: `frames` arrays of `shape` (slowest axis first), the first at `offset`.

    `offset` counts in the stream, that is inflated bytes where it is compressed; `start` is the
    byte of the file at which the stream begins.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int = 0
    frames: int = 1
    start: int = 0

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Byte of the stream at which the last frame ends."""
        return self.offset + self.frames * self.frame_bytes


def check_frame(block: Block, options: ReadOptions, path: Path) -> None:
    """Refuse an undecided frame, and one that does not fit into the memory budget."""
    check_frame_count(block.frames, options, path)
    check_budget(path, block.frame_bytes, options.max_gb)


def check_frame_count(frames: int, options: ReadOptions, path: Path) -> None:
    """Refuse a file of several volumes or pages where `options` do not choose one of them."""
    if frames > 1 and options.frame is None:
        raise InputError(
            f"has {frames} frames (a fourth axis, or pages), expected one",
            fix=f"choose one with --frame 0 to {frames - 1}",
            path=path,
            option="--frame",
        )
    if options.frame is not None and options.frame >= frames:
        raise InputError(
            f"has no frame {options.frame}", fix=f"allowed: 0 to {frames - 1}", path=path
        )


def check_size(source: RegularFile, stream: Stream, block: Block, notes: list[str]) -> None:
    """Hold the header against the file size, before anything is allocated."""
    if isinstance(stream, DeflateStream):
        check_inflated(source, block.end, block.start)
    elif extra := check_length(source, block.start + block.end):
        notes.append(f"{extra:,} bytes behind the voxels ignored")


def read_block(
    source: RegularFile, stream: Stream, block: Block, frame: int, notes: list[str]
) -> Shaped[np.ndarray, "..."]:
    """Voxels of one frame in the byte order of the file; the stream stands at `block.offset`.

    A compressed stream is read to its end, where its checksum is.

    Raises:
        InputError: The stream ends before the last frame, or is damaged.
    """
    array = np.empty(block.shape, block.dtype)
    got = stream.skip(frame * block.frame_bytes)
    got += stream.read_into(array.reshape(-1).view(np.uint8).data)
    got += stream.skip((block.frames - 1 - frame) * block.frame_bytes)
    if got < block.end - block.offset:
        raise InputError(
            f"truncated: its data end at byte {block.offset + got:,} of {block.end:,}",
            fix=COPY_AGAIN,
            path=source.path,
        )
    extra = stream.finish()
    if isinstance(stream, DeflateStream):
        if extra:
            notes.append(f"{extra:,} bytes behind the voxels ignored")
        if stream.garbage_bytes:
            notes.append(f"{stream.garbage_bytes:,} bytes behind the compressed stream ignored")
    return array
