"""One page of a TIFF file."""

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from segkit.data.blocks import check_frame_count
from segkit.data.files import COPY_AGAIN, RegularFile, check_budget
from segkit.data.options import ReadOptions
from segkit.errors import InputError

DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError,
    AttributeError, RuntimeError, struct.error, zlib.error, tifffile.TiffFileError,
)  # fmt: skip
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # damage is reported here


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pass over Pillow's own warnings: they concern metadata, which nobody reads here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        yield


def read_tiff(
    source: RegularFile, options: ReadOptions, notes: list[str], *, keeps_indices: bool
) -> Shaped[np.ndarray, "..."]:
    """Pixels of a page, (h, w) or (h, w, 3).

    Raises:
        InputError: The file is cut or damaged, holds several pages and none is chosen, or uses an
            unusual layout or compression.
    """
    source.file.seek(0)
    try:
        with tifffile.TiffFile(source.file) as tiff:
            check_frame_count(len(tiff.pages), options, source.path)
            page = tiff.pages[options.frame or 0].aspage()
            check_budget(source.path, page.nbytes, options.max_gb)
            _check_extent(source, page)
            array = _decode(source, page, options)
            return _usable(array, page, source, notes, keeps_indices=keeps_indices)
    except InputError:
        raise
    except DECODING_ERRORS as error:
        raise InputError(
            f"cannot be decoded ({error})", fix=COPY_AGAIN, path=source.path
        ) from error


def tiff_pages(source: RegularFile) -> int:
    """Number of pages."""
    source.file.seek(0)
    try:
        with tifffile.TiffFile(source.file) as tiff:
            return len(tiff.pages)
    except DECODING_ERRORS as error:
        raise InputError(
            f"cannot be decoded ({error})", fix=COPY_AGAIN, path=source.path
        ) from error


def _check_extent(source: RegularFile, page: tifffile.TiffPage) -> None:
    """Refuse a page whose strips or tiles reach beyond the file, are missing or too short."""
    offsets, counts = page.dataoffsets, page.databytecounts
    parts = math.prod(page.chunked)
    if not len(offsets) == len(counts) == parts:
        raise InputError(
            f"damaged: has {len(offsets)} of {parts} parts of the picture",
            fix=COPY_AGAIN,
            path=source.path,
        )
    end = max(start + count for start, count in zip(offsets, counts, strict=True))
    is_raw = page.compression == tifffile.COMPRESSION.NONE and page.bitspersample % 8 == 0
    missing = page.nbytes - sum(counts) if is_raw else 0
    if end > source.size or missing > 0:
        raise InputError(
            f"truncated: ends at byte {source.size:,} of {max(end, source.size + missing):,}",
            fix=COPY_AGAIN,
            path=source.path,
        )


def _decode(
    source: RegularFile, page: tifffile.TiffPage, options: ReadOptions
) -> Shaped[np.ndarray, "..."]:
    try:
        return np.asarray(page.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
    # Pillow brings its own decoders for LZW and JPEG
    source.file.seek(0)
    with quiet_pillow(), Image.open(io.BytesIO(source.file.read())) as image:
        image.seek(options.frame or 0)
        array = np.array(image)
    if array.shape[:2] != tuple(page.shape[:2]) or array.dtype != page.dtype:
        name = tifffile.COMPRESSION(page.compression).name
        raise InputError(
            f"its compression ({name}) of {page.dtype} pixels is not supported",
            fix="save it uncompressed or as PNG",
            path=source.path,
        )
    return array


def _usable(
    array: Shaped[np.ndarray, "..."],
    page: tifffile.TiffPage,
    source: RegularFile,
    notes: list[str],
    *,
    keeps_indices: bool,
) -> Shaped[np.ndarray, "..."]:
    photometric = tifffile.PHOTOMETRIC(page.photometric)
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if photometric == tifffile.PHOTOMETRIC.PALETTE and array.ndim == 2:
        if keeps_indices:
            return array
        table = np.array(page.colormap, dtype=np.uint16)  # [3 entries]
        return (table >> 8).astype(np.uint8).T[array]
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
        array = np.iinfo(array.dtype).max - array
    if array.ndim == 3 and array.shape[-1] in (2, 4):
        notes.append("transparency ignored")
        array = array[..., 0] if array.shape[-1] == 2 else array[..., :3]
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)):
        raise InputError(
            f"has pixels of the shape {array.shape}, expected grey (h, w) or colour (h, w, 3)",
            fix="save one grey or RGB page",
            path=source.path,
        )
    return np.ascontiguousarray(array)
