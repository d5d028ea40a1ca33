"""Overlay videos: frames with their objects tinted, written as they come."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from scipy import ndimage

from segkit.data.atomic import atomic_file
from segkit.data.video_file import import_av
from segkit.data.volume import Picture

_TIMES = Fraction(1, 90000)  # s; fine enough for any rate
_TINT = 0.35
_OUTLINES = 300
"""Smaller side of a frame over the width of outlines, which are a pixel at least."""
_COLOURS = np.array(
    [[230, 60, 60], [60, 180, 75], [0, 130, 200], [245, 190, 20], [145, 30, 180], [70, 220, 220]],
    dtype=np.float32,
)


class OverlayWriter(AbstractContextManager["OverlayWriter"]):
    """MP4 with the times of its source; the file appears when the block ends without an error.

    `value_range` are the grey values that become black and white, None for 8-bit frames.
    `fps` spaces frames that have no time. Odd sizes get a black row or column, as the codec needs.

    Raises:
        MissingExtraError: PyAV is not installed.
        InputError: The folder is absent or not writable.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        value_range: tuple[float, float] | None = None,
        fps: float = 25.0,
    ) -> None:
        self._av, self._range, self._fps = import_av(), value_range, fps
        self._file = atomic_file(Path(path))
        self._container: Any = None
        self._stream: Any = None
        self._last, self._index = -1, 0

    def __enter__(self) -> Self:
        self._container = self._av.open(self._file.__enter__(), "w", format="mp4")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if kind is None and self._stream is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()
        return self._file.__exit__(kind, error, trace)

    def write(
        self,
        picture: Picture,
        masks: Mapping[int, Bool[np.ndarray, "rows columns"]],
        time_s: float | None = None,
    ) -> None:
        """Add the next frame; object n has colour n mod 6."""
        image = _even(tinted(to_colour(picture.array, self._range), masks))
        if self._stream is None:
            self._stream = self._open_stream(image.shape[1], image.shape[0])
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        seconds = self._index / self._fps if time_s is None else time_s
        self._last = max(self._last + 1, round(seconds / _TIMES))
        frame.pts, frame.time_base = self._last, _TIMES
        self._index += 1
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _open_stream(self, width: int, height: int) -> Any:
        codecs = self._av.codecs_available
        stream = self._container.add_stream("libx264" if "libx264" in codecs else "mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = _TIMES
        return stream


def to_colour(
    array: Shaped[np.ndarray, "..."], value_range: tuple[float, float] | None
) -> UInt8[np.ndarray, "h w 3"]:
    """Grey or colour pixels as 8-bit colours."""
    if value_range is not None:
        low, high = value_range
        array = np.clip((array.astype(np.float32) - low) / (high - low), 0, 1) * 255
    image = array.astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def tinted(
    image: UInt8[np.ndarray, "h w 3"], masks: Mapping[int, Bool[np.ndarray, "rows columns"]]
) -> UInt8[np.ndarray, "h w 3"]:
    """Blend the colour of each object into its pixels, and draw its outline."""
    out = image.astype(np.float32)
    for one, mask in masks.items():
        out[mask] = (1 - _TINT) * out[mask] + _TINT * _COLOURS[one % len(_COLOURS)]
    # on top of all: where objects overlap, each can be followed
    for one, mask in masks.items():
        out[_outline(mask, max(1, min(mask.shape) // _OUTLINES))] = _COLOURS[one % len(_COLOURS)]
    return out.astype(np.uint8)


def _outline(mask: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """Pixels of a mask that are at most `width` steps from one outside of it."""
    out = np.zeros_like(mask)
    if not mask.any():
        return out
    # only the part of the frame that holds the mask, and a little more
    box = tuple(
        slice(max(0, int(places[0]) - 1), int(places[-1]) + 2)
        for places in (np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0)))
    )
    part = mask[box]
    out[box] = part & ~ndimage.binary_erosion(part, iterations=width, border_value=1)
    return out


def _even(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "even_h even_w 3"]:
    return np.pad(image, [(0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)])
