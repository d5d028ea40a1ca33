"""Every transfer syntax is exact, or refused with what to install."""

import io
from pathlib import Path

import numpy as np
import pytest
from dicom_builder import Edit, assert_control, pixels_of, read_quietly, write_series
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from segkit.data import dicom_pixels
from segkit.data.dicom import read_series
from segkit.errors import InputError


def implicit(k: int, header: FileDataset) -> None:
    header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def big_endian(k: int, header: FileDataset) -> None:
    header.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    header.PixelData = pixels_of(k).astype(">u2").tobytes()
    header.set_original_encoding(False, False)


def deflated(k: int, header: FileDataset) -> None:
    header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def rle(k: int, header: FileDataset) -> None:
    header.compress(RLELossless)


def rle_with_overlay(k: int, header: FileDataset) -> None:
    header.BitsStored, header.HighBit = 16, 15
    header.PixelData = (pixels_of(k) | 0x8000).tobytes()
    header.compress(RLELossless)
    header.BitsStored, header.HighBit = 12, 11


def jpeg_ls(k: int, header: FileDataset) -> None:
    header.compress(JPEGLSLossless, encoding_plugin="pyjpegls")


def large(k: int) -> np.ndarray:
    """The encoder of JPEG 2000 needs at least 32 x 32 pixels."""
    return pixels_of(k, 64)


def jpeg_2000(k: int, header: FileDataset) -> None:
    header.Rows = header.Columns = 64
    header.PixelData = large(k).tobytes()
    header.compress(JPEG2000Lossless)


def signed_jpeg_2000(k: int, header: FileDataset) -> None:
    header.Rows = header.Columns = 64
    header.PixelRepresentation, header.RescaleIntercept = 1, 1024
    header.PixelData = (large(k).astype(np.int16) - 2048).tobytes()
    header.compress(JPEG2000Lossless)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(jpeg_2000, id="D-12-jpeg-2000"),
        pytest.param(signed_jpeg_2000, id="D-12-jpeg-2000-signed"),
    ],
)
def test_jpeg_2000_is_bit_exact(tmp_path: Path, edit: Edit) -> None:
    pytest.importorskip("openjpeg", reason="encoder of the extra [dicom]")
    volume = read_quietly(write_series(tmp_path / "s", edit, slices=range(3)))
    expected = np.stack([large(k).astype(int) - 1024 for k in range(3)])
    np.testing.assert_array_equal(volume.array, expected)


@pytest.mark.parametrize(
    ("edit", "codec"),
    [
        pytest.param(implicit, None, id="D-12-implicit"),
        pytest.param(big_endian, None, id="D-12-big-endian"),
        pytest.param(deflated, None, id="D-12-deflated"),
        pytest.param(rle, None, id="D-12-rle"),
        pytest.param(rle_with_overlay, None, id="D-12-rle-with-overlay-bits"),
        pytest.param(jpeg_ls, "jpeg_ls", id="D-12-jpeg-ls"),
    ],
)
def test_lossless_syntaxes_are_bit_exact(tmp_path: Path, edit: Edit, codec: str | None) -> None:
    if codec is not None:
        pytest.importorskip(codec, reason="encoder of the extra [dicom]")
    assert_control(read_quietly(write_series(tmp_path / "s", edit)))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-12-jpeg-baseline")])
def test_baseline_jpeg_decodes_as_any_decoder_does(tmp_path: Path, case: int) -> None:
    picture = np.add.outer(np.arange(8), np.arange(8)).astype(np.uint8) * 8
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=95)

    def edit(k: int, header: FileDataset) -> None:
        header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        header.BitsAllocated = header.BitsStored = 8
        header.HighBit = 7
        header.PixelData = encapsulate([buffer.getvalue()])
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True

    volume = read_quietly(write_series(tmp_path / "s", edit))
    decoded = np.asarray(Image.open(io.BytesIO(buffer.getvalue()))).astype(int)
    np.testing.assert_array_equal(volume.array[3], decoded - 1024)


def stored(name: str) -> Path:
    """A file that pydicom ships; nothing is downloaded."""
    if (path := get_testdata_file(name, download=False)) is None:
        pytest.skip(f"pydicom does not ship {name} here")
    return Path(str(path))


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        pytest.param("MR_small_RLE.dcm", "MR_small.dcm", id="D-12-shipped-rle"),
        pytest.param("MR_small_jp2klossless.dcm", "MR_small.dcm", id="D-12-shipped-jpeg-2000"),
        pytest.param("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", id="D-12-shipped-jpeg-ls"),
        pytest.param("MR_small_bigendian.dcm", "MR_small.dcm", id="D-12-shipped-big-endian"),
        pytest.param("MR_small_implicit.dcm", "MR_small.dcm", id="D-12-shipped-implicit"),
    ],
)
def test_shipped_files_equal_their_uncompressed_twin(name: str, twin: str) -> None:
    pytest.importorskip("openjpeg", reason="decoders of the extra [dicom]")
    one, two = read_quietly(stored(name)), read_quietly(stored(twin))
    np.testing.assert_array_equal(one.array, two.array)
    np.testing.assert_array_equal(one.geometry.affine, two.geometry.affine)


@pytest.mark.parametrize(
    ("syntax", "match"),
    [
        pytest.param(MPEG2MPML, "MPEG2 .* is not read; convert", id="D-12-video"),
        pytest.param("1.2.3.4.5", "which is not read", id="D-12-private-syntax"),
    ],
)
def test_unknown_syntaxes_are_refused(tmp_path: Path, syntax: str, match: str) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.file_meta.TransferSyntaxUID = syntax
        header.PixelData = encapsulate([bytes(100)])
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True
        header.set_original_encoding(False, True)

    folder = write_series(tmp_path / "s", edit) if syntax == MPEG2MPML else tmp_path / "s"
    if syntax != MPEG2MPML:
        write_series(folder)
        for file in folder.iterdir():
            content = file.read_bytes()
            known = b"1.2.840.10008.1.2.1\0"
            file.write_bytes(content.replace(known, syntax.encode().ljust(len(known), b"\0")))
    with pytest.raises(InputError, match=match):
        read_series(folder)


class NoCodec:
    """A decoder whose packages are absent."""

    is_available = False


@pytest.mark.parametrize(
    "syntax",
    [
        pytest.param(JPEGLosslessSV1, id="D-12-no-codec-jpeg-lossless"),
        pytest.param(JPEGExtended12Bit, id="D-12-no-codec-jpeg-extended"),
        pytest.param(HTJ2KLossless, id="D-12-no-codec-htj2k"),
    ],
)
def test_missing_codec_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str
) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.file_meta.TransferSyntaxUID = syntax
        header.PixelData = encapsulate([bytes(100)])
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True

    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda _: NoCodec())
    with pytest.raises(InputError, match=r"needs a codec.*pip install 'segkit\[dicom\]'"):
        read_series(write_series(tmp_path / "s", edit))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-12-damaged-codestream")])
def test_damaged_codestream_is_a_typed_error(tmp_path: Path, case: int) -> None:
    pytest.importorskip("openjpeg", reason="encoder of the extra [dicom]")
    (file,) = write_series(tmp_path / "s", jpeg_2000, slices=[0]).iterdir()
    content = file.read_bytes()
    start = content.index(b"\xff\x4f\xff\x51") + 20
    end = len(content) - 16
    file.write_bytes(content[:start] + bytes(end - start) + content[end:])
    with pytest.raises(InputError, match=r"slice000\.dcm: cannot be read as DICOM"):
        read_series(file)
