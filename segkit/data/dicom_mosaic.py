"""Siemens mosaics: all slices of a volume tiled into one picture.

The number of slices and their direction stand only in the vendor's private header; the recorded
position is that of a picture of the mosaic's size, so it is moved back to the first slice
(source: nibabel's note "DICOM mosaic").
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from segkit.errors import InputError

CSA_IMAGE = 0x00291010


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Tiles of `rows` x `columns`, row by row in a square of `side` tiles, one per slice."""

    rows: int
    columns: int
    side: int
    step_mm: float
    positions_mm: tuple[tuple[float, ...], ...]

    def tile(self, k: int) -> tuple[int, int]:
        """First row and column of slice `k` within the picture."""
        return k // self.side * self.rows, k % self.side * self.columns


def read_mosaic(dataset: Dataset, path: str | Path) -> Mosaic:
    """Describe the mosaic of a header.

    Raises:
        InputError: The private header or one of the values it must hold is missing.
    """
    count, normal = _private_header(dataset, path)
    spacing, step = dataset.get("PixelSpacing"), float(dataset.get("SpacingBetweenSlices") or 0)
    orientation, position = dataset.get("ImageOrientationPatient"), dataset.ImagePositionPatient
    if not spacing or not orientation or not position or step <= 0:
        raise _refusal(path, "lacks PixelSpacing, SpacingBetweenSlices or its position")
    side = math.ceil(math.sqrt(count))
    height, width = int(dataset.Rows), int(dataset.Columns)
    if height % side or width % side:
        raise _refusal(path, f"has {height} x {width} pixels, not a square of {side} tiles a side")
    rows, columns = height // side, width // side
    row_mm, column_mm = (float(value) for value in spacing)
    along_row, along_column = np.reshape([float(value) for value in orientation], (2, 3))
    first = np.array([float(value) for value in position])
    first = first + along_row * column_mm * (width - columns) / 2
    first = first + along_column * row_mm * (height - rows) / 2
    positions = tuple(tuple((first + k * step * normal).tolist()) for k in range(count))
    return Mosaic(rows, columns, side, step, positions)


def _private_header(dataset: Dataset, path: str | Path) -> tuple[int, np.ndarray]:
    """Number of slices and the direction in which they follow each other."""
    if CSA_IMAGE not in dataset:
        raise _refusal(path, "has no private header (0029,1010)")
    try:
        header = read_csa(bytes(dataset[CSA_IMAGE].value))
        count = int(header.get("NumberOfImagesInMosaic", ["0"])[0])
        normal = np.array([float(value) for value in header.get("SliceNormalVector", [])])
    except (struct.error, ValueError, IndexError) as error:
        raise _refusal(path, "has a damaged private header (0029,1010)") from error
    if not 0 < count <= 4096 or normal.shape != (3,) or not np.isfinite(normal).all():
        raise _refusal(path, "does not state the number or the direction of its slices")
    return count, normal


def read_csa(content: bytes) -> dict[str, list[str]]:
    """Parse the vendor's header of the second form into texts by name.

    After "SV10", four bytes and two numbers (the first counts the entries) follow entries of a
    name, five numbers (the fourth counts the items) and items: four numbers, the second of which is
    the length of the text that follows, filled up to four bytes.

    Raises:
        ValueError: Another form, or a length beyond the end.
        struct.error: The content ends early.
    """
    if content[:4] != b"SV10":
        raise ValueError("not a header of the second form")
    (entries,) = struct.unpack_from("<I", content, 8)
    found: dict[str, list[str]] = {}
    offset = 16
    for _ in range(entries):
        name, _, _, _, items, _ = struct.unpack_from("<64si4s3i", content, offset)
        offset += 84
        texts = []
        for _ in range(items):
            _, length, _, _ = struct.unpack_from("<4i", content, offset)
            offset += 16
            if not 0 <= length <= len(content) - offset:
                raise ValueError("an item is longer than the header")
            texts.append(_text(content[offset : offset + length]))
            offset += (length + 3) // 4 * 4
        found[_text(name)] = [text for text in texts if text]
    return found


def _text(content: bytes) -> str:
    return content.split(b"\0")[0].decode("latin-1").strip()


def _refusal(path: str | Path, cause: str) -> InputError:
    return InputError(
        f"is a Siemens mosaic, but {cause}",
        path=path,
        fix="export it as single slices or as enhanced multi-frame",
        code="mosaic",
    )
