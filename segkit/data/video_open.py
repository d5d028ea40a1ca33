"""From whatever a person holds to a `FrameSource`, and reading ahead of who uses it."""

import queue
import threading
from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from segkit.data.dicom import is_dicom
from segkit.data.options import ReadOptions
from segkit.data.readers import PICTURE_SUFFIXES, load
from segkit.data.video import (
    ArrayFrames,
    EndOfFramesError,
    FolderFrames,
    FrameSource,
    VolumeFrames,
)
from segkit.data.video_dicom import cine_of
from segkit.data.video_file import VideoFile, is_video
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError

VideoInput = str | Path | Volume | FrameSource | Shaped[np.ndarray, "..."]


def open_frames(
    source: VideoInput, *, axis: int | None = None, options: ReadOptions | None = None
) -> FrameSource:
    """Open a video file, a folder of pictures, a cine loop, a volume or an array (t, h, w[, 3]).

    A volume becomes a sequence along array `axis` (0 k, 1 j, 2 i), the one with the largest spacing
    by default.

    Raises:
        InputError: The source cannot be read, or is a single picture.
    """
    if isinstance(source, FrameSource):
        return source
    if isinstance(source, Volume):
        return VolumeFrames(source, axis)
    if isinstance(source, np.ndarray):
        return ArrayFrames(source)
    path = Path(source)
    if path.is_file() and is_video(path):
        return VideoFile(path)
    if path.is_dir() and any(one.suffix.lower() in PICTURE_SUFFIXES for one in path.iterdir()):
        return FolderFrames(path, options)
    if path.exists() and is_dicom(path) and (cine := cine_of(path)) is not None:
        return cine
    found = load(path, options)
    if isinstance(found, Picture):
        raise InputError(
            "is a single picture, a sequence is needed",
            fix="give a video, a folder of pictures, a cine loop or a volume",
            path=path,
            code="no_video",
        )
    return VolumeFrames(found, axis)


def read_ahead(
    source: FrameSource, indices: Iterable[int], *, depth: int = 4
) -> Generator[tuple[int, Picture], None, None]:
    """Read frames in another thread, at most `depth` ahead; ends where the source does.

    An error of the source is raised where its frame would come. Closing the iterator, or leaving
    its loop, ends the thread.
    """
    ready: queue.Queue[tuple[int, Picture | InputError] | None] = queue.Queue(depth)
    stop = threading.Event()

    def offer(item: tuple[int, Picture | InputError] | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        for index in indices:
            if stop.is_set():
                return
            try:
                offer((index, source.read(index)))
            except EndOfFramesError:
                break
            except InputError as error:
                return offer((index, error))
        offer(None)

    thread = threading.Thread(target=work, name="segkit-frames", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            index, found = item
            if isinstance(found, InputError):
                raise found
            yield index, found
    finally:
        stop.set()
        thread.join()
