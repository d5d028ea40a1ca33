"""Siemens mosaics, taken apart by their private header."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_builder import (
    SPACING,
    expected_array,
    make_slice,
    pixels_of,
    read_quietly,
    read_warned,
    refuse,
    save,
)
from pydicom.dataset import FileDataset

from segkit.data.dicom_mosaic import read_csa

COUNT, SIDE, STEP = 7, 3, 3.5


def csa(**entries: list[str]) -> bytes:
    """A private header of the second form."""
    content = b"SV10\4\3\2\1" + struct.pack("<2I", len(entries), 77)
    for name, texts in entries.items():
        content += struct.pack("<64si4s3i", name.encode(), len(texts), b"FD", 4, len(texts), 77)
        for text in texts:
            raw = text.encode() + b"\0"
            content += struct.pack("<4i", len(raw), len(raw), 77, len(raw))
            content += raw + bytes(-len(raw) % 4)
    return content


def mosaic(number: int = 0, scale: int = 1) -> FileDataset:
    """7 slices of 8 x 8 in a picture of 3 x 3 tiles."""
    header = make_slice(number, "1.2.3.8")
    picture = np.zeros((SIDE * 8, SIDE * 8), dtype=np.uint16)
    for k in range(COUNT):
        row, column = k // SIDE * 8, k % SIDE * 8
        picture[row : row + 8, column : column + 8] = pixels_of(k) // scale
    header.Rows, header.Columns = picture.shape
    header.PixelData = picture.tobytes()
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    header.SpacingBetweenSlices = STEP
    # the recorded position is that of a picture of the mosaic's size around the same centre
    header.ImagePositionPatient = [10 - 8 * SPACING, 20 - 8 * SPACING, 30]
    normal = [f"{value:.8f}" for value in (0, 0, 1)]
    block = header.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(
        0x10, "OB", csa(NumberOfImagesInMosaic=[str(COUNT), ""], SliceNormalVector=normal)
    )
    return header


@pytest.mark.parametrize("case", [pytest.param(0, id="D-22-mosaic")])
def test_mosaic_becomes_a_volume(tmp_path: Path, case: int) -> None:
    volume = read_quietly(save(mosaic(), tmp_path / "m.dcm"))
    np.testing.assert_array_equal(volume.array, expected_array(range(COUNT)))
    affine = np.diag([-SPACING, -SPACING, STEP, 1.0])
    affine[:3, 3] = -10, -20, 30
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-6)


@pytest.mark.parametrize("case", [pytest.param(0, id="D-22-time-series")])
def test_each_mosaic_is_a_time_point(tmp_path: Path, case: int) -> None:
    for t in range(3):
        save(mosaic(t, scale=t + 1), tmp_path / f"m{t}.dcm")
    assert refuse(tmp_path, "3 images at each position").option == "--frame"
    volume = read_warned(tmp_path, "14 images of other time points", frame=2)
    expected = np.stack([pixels_of(k) // 3 for k in range(COUNT)]).astype(int) - 1024
    np.testing.assert_array_equal(volume.array, expected)


def no_private_header(header: FileDataset) -> None:
    del header[0x0029, 0x1010]


def damaged(header: FileDataset) -> None:
    header[0x0029, 0x1010].value = header[0x0029, 0x1010].value[:150]


def first_form(header: FileDataset) -> None:
    header[0x0029, 0x1010].value = b"XX10" + header[0x0029, 0x1010].value[4:]


def no_normal(header: FileDataset) -> None:
    header[0x0029, 0x1010].value = csa(NumberOfImagesInMosaic=["7"])


def no_step(header: FileDataset) -> None:
    del header.SpacingBetweenSlices


def odd_size(header: FileDataset) -> None:
    header.Rows, header.PixelData = 23, header.PixelData[: 23 * 24 * 2]


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        pytest.param(no_private_header, "no private header", id="D-22-no-private-header"),
        pytest.param(damaged, "damaged private header", id="D-22-damaged"),
        pytest.param(first_form, "damaged private header", id="D-22-first-form"),
        pytest.param(no_normal, "number or the direction of its slices", id="D-22-no-normal"),
        pytest.param(no_step, "lacks PixelSpacing, SpacingBetweenSlices", id="D-22-no-step"),
        pytest.param(odd_size, "23 x 24 pixels, not a square of 3 tiles", id="D-22-odd-size"),
    ],
)
def test_mosaic_without_its_header_is_refused(
    tmp_path: Path, edit: Callable[[FileDataset], None], match: str
) -> None:
    header = mosaic()
    edit(header)
    refuse(save(header, tmp_path / "m.dcm"), match)


def test_csa_item_beyond_the_end_is_refused() -> None:
    content = bytearray(csa(A=["1"]))
    content[16 + 84 + 4 : 16 + 84 + 8] = struct.pack("<i", 1 << 30)
    with pytest.raises(ValueError, match="longer than the header"):
        read_csa(bytes(content))
