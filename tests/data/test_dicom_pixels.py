"""Stored bits, slopes, colour and transfer syntaxes."""

from pathlib import Path

import numpy as np
import pytest
from dicom_builder import (
    SLICES,
    Edit,
    assert_control,
    pixels_of,
    read_quietly,
    read_warned,
    write_series,
)
from pydicom.dataset import FileDataset

from segkit.data.dicom import read_series
from segkit.errors import InputError


@pytest.mark.parametrize(
    "slope", [pytest.param(0.5, id="D-10-fraction"), pytest.param(2, id="D-10-whole")]
)
def test_slope_of_each_slice(tmp_path: Path, slope: float) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.RescaleSlope = slope * (k + 1)

    volume = read_quietly(write_series(tmp_path / "s", edit))
    slopes = slope * np.arange(1, SLICES + 1)[:, None, None]
    expected = np.stack([pixels_of(k) for k in range(SLICES)]) * slopes - 1024
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.array.dtype == (np.float32 if slope == 0.5 else np.int32)


def overlay_bits(k: int, header: FileDataset) -> None:
    header.PixelData = (pixels_of(k) | 0xF000).tobytes()


def shifted_bits(k: int, header: FileDataset) -> None:
    header.HighBit = 13
    header.PixelData = ((pixels_of(k) << 2) | 0xC003).astype(np.uint16).tobytes()


def signed_bits(k: int, header: FileDataset) -> None:
    header.PixelRepresentation, header.RescaleIntercept = 1, 1024
    values = (pixels_of(k).astype(np.int32) - 2048) & 0x0FFF
    header.PixelData = values.astype(np.uint16).tobytes()


@pytest.mark.parametrize(
    ("edit", "shift"),
    [
        pytest.param(overlay_bits, 0, id="D-15-overlay-in-high-bits"),
        pytest.param(shifted_bits, 0, id="D-15-high-bit-13"),
        pytest.param(signed_bits, 0, id="D-15-signed-12-bits"),
    ],
)
def test_only_stored_bits_count(tmp_path: Path, edit: Edit, shift: int) -> None:
    assert_control(read_quietly(write_series(tmp_path / "s", edit)))


def test_colour_needs_luminance(tmp_path: Path) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.PhotometricInterpretation, header.SamplesPerPixel = "RGB", 3
        header.PlanarConfiguration = 0
        header.BitsAllocated = header.BitsStored = 8
        header.HighBit, header.RescaleIntercept = 7, 0
        header.PixelData = np.full((8, 8, 3), [10, 20, 30], dtype=np.uint8).tobytes()

    folder = write_series(tmp_path / "s", edit)
    with pytest.raises(InputError, match=r"RGB pixels.*--luminance"):
        read_series(folder)
    volume = read_warned(folder, "turned grey", luminance=True)
    np.testing.assert_allclose(volume.array, 0.299 * 10 + 0.587 * 20 + 0.114 * 30, rtol=1e-6)


def lut(k: int, header: FileDataset) -> None:
    header.ModalityLUTSequence = []


def no_slope(k: int, header: FileDataset) -> None:
    header.RescaleSlope = 0


def strange_bits(k: int, header: FileDataset) -> None:
    header.HighBit = 17


def many_frames(k: int, header: FileDataset) -> None:
    header.NumberOfFrames = 2


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lut, "Modality LUT"),
        (no_slope, "RescaleSlope 0"),
        (strange_bits, "8 x 8 pixels of 12 bits, high bit 17, in 16 bits"),
        (many_frames, r"declares 2 x 8 x 8 pixels .256 bytes.*128 bytes"),
    ],
)
def test_contradicting_headers_are_refused(tmp_path: Path, edit: Edit, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_series(write_series(tmp_path / "s", edit))
