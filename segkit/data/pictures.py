"""PNG, JPEG and TIFF pictures, decoded after their size is known and checked to their end."""

import struct
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Shaped
from PIL import Image, JpegImagePlugin, PngImagePlugin

from segkit.data.blocks import check_frame_count
from segkit.data.files import COPY_AGAIN, RegularFile, check_budget
from segkit.data.options import ReadOptions
from segkit.data.tiff import quiet_pillow, read_tiff, tiff_pages
from segkit.data.volume import Picture
from segkit.errors import InputError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError,
    struct.error, zlib.error,
)  # fmt: skip
ORIENTATION = 0x0112  # EXIF tag


def is_picture(data: bytes) -> bool:
    """Whether the bytes start like a PNG, JPEG or TIFF file."""
    return data.startswith((PNG_MAGIC, JPEG_MAGIC, *TIFF_MAGICS))


def read_picture(
    path: Path, options: ReadOptions, notes: list[str], *, keeps_indices: bool = False
) -> Picture:
    """Read a picture as grey (h, w) or colour (h, w, 3); transparency is dropped.

    `keeps_indices` returns the numbers of a palette picture in place of its colours, which is how
    label maps are stored. `options.spacing` is taken over as pixel spacing.

    Raises:
        InputError: The file is damaged, or of a kind that is not read.
    """
    with RegularFile(path) as source:
        data = source.peek(32)
        if data.startswith(TIFF_MAGICS):
            array = read_tiff(source, options, notes, keeps_indices=keeps_indices)
        elif data.startswith(PNG_MAGIC):
            _check_png(source)
            array = _decode(source, options, notes, keeps_indices=keeps_indices)
            if data[24] == 16 and data[25] in (2, 6):
                notes.append("16 bits per colour read as 8")
        else:
            array = _decode(source, options, notes, keeps_indices=keeps_indices)
    spacing = None if options.spacing is None else (options.spacing[1], options.spacing[0])
    return Picture(array, path, spacing)


def picture_frames(path: Path) -> int:
    """Pages of a TIFF file; 1 for other pictures."""
    with RegularFile(path) as source:
        return tiff_pages(source) if source.peek(4).startswith(TIFF_MAGICS) else 1


def _decode(
    source: RegularFile, options: ReadOptions, notes: list[str], *, keeps_indices: bool
) -> Shaped[np.ndarray, "..."]:
    is_png = source.peek(len(PNG_MAGIC)) == PNG_MAGIC
    source.file.seek(0)
    # the plug-ins directly: `Image.open` has its own idea of what is too large
    plugin = PngImagePlugin.PngImageFile if is_png else JpegImagePlugin.JpegImageFile
    try:
        with quiet_pillow(), plugin(source.file) as image:
            check_frame_count(getattr(image, "n_frames", 1), options, source.path)
            width, height = image.size
            check_budget(source.path, 4 * width * height, options.max_gb)
            if options.frame:
                image.seek(options.frame)
            turned = image.getexif().get(ORIENTATION, 1)
            image.load()
            array = _pixels(image, notes, keeps_indices=keeps_indices)
    except InputError:
        raise
    except DECODING_ERRORS as error:
        _refuse(source.path, error)
    if turned != 1:
        notes.append(f"EXIF orientation {turned} not applied: masks lie on the stored pixels")
    return array


def _pixels(
    image: Image.Image, notes: list[str], *, keeps_indices: bool
) -> Shaped[np.ndarray, "..."]:
    mode = image.mode
    if mode == "P" and keeps_indices:
        return np.array(image)
    if mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        alpha = np.array(image.convert("RGBA"))[..., 3]
        if (alpha < 255).any():
            notes.append("transparency ignored")
    if mode in ("1", "LA"):
        return np.array(image.convert("L"))
    if mode in ("L", "RGB", "F") or mode.startswith("I"):
        array = np.array(image)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if mode in ("CMYK", "YCCK", "LAB"):
        notes.append(f"{mode} colours converted to RGB")
    return np.array(image.convert("RGB"))


def _check_png(source: RegularFile) -> None:
    """Walk over the chunks and compare their checksums; Pillow does not for all of them."""
    file, position = source.file, len(PNG_MAGIC)
    while True:
        file.seek(position)
        head = file.read(8)
        size = int.from_bytes(head[:4], "big")
        if len(head) < 8 or position + 12 + size > source.size:
            _truncated(source)
        checksum, left = zlib.crc32(head[4:]), size
        while left:
            part = file.read(min(left, 2**20))
            if not part:
                _truncated(source)
            checksum, left = zlib.crc32(part, checksum), left - len(part)
        if int.from_bytes(file.read(4), "big") != checksum:
            raise InputError(
                f"checksum does not match in the chunk at byte {position:,}",
                fix=COPY_AGAIN,
                path=source.path,
            )
        position += 12 + size
        if head[4:] == b"IEND":
            return


def _truncated(source: RegularFile) -> NoReturn:
    raise InputError(
        f"truncated: ends at byte {source.size:,}, before its last chunk",
        fix=COPY_AGAIN,
        path=source.path,
    )


def _refuse(path: Path, error: Exception) -> NoReturn:
    raise InputError(
        f"cannot be decoded ({error or type(error).__name__})", fix=COPY_AGAIN, path=path
    ) from error
