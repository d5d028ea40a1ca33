import io
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from nifti_bytes import fault
from PIL import Image

from segkit.data.readers import count_frames, load
from segkit.data.volume import Picture
from segkit.errors import DataWarning, InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (40, 50), dtype=np.uint8)
COLOUR = RNG.integers(0, 255, (40, 50, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65535, (40, 50), dtype=np.uint16)


def encoded(array: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


EXACT = {
    "grey-png": (encoded(GREY, "PNG"), GREY),
    "colour-png": (encoded(COLOUR, "PNG"), COLOUR),
    "deep-png": (encoded(DEEP, "PNG"), DEEP),
    "bool-png": (encoded(GREY > 99, "PNG"), (GREY > 99) * np.uint8(255)),
    "grey-tiff": (tiff(GREY), GREY),
    "colour-tiff": (tiff(COLOUR, photometric="rgb"), COLOUR),
    "planar-tiff": (
        tiff(np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate"),
        COLOUR,
    ),
    "deep-tiff": (tiff(DEEP, compression="zlib", predictor=False), DEEP),
    "big-endian-tiff": (tiff(DEEP, byteorder=">"), DEEP),
    "bigtiff": (tiff(GREY, bigtiff=True), GREY),
    "float-tiff": (tiff(DEEP.astype(np.float32)), DEEP.astype(np.float32)),
    "lzw-tiff": (encoded(COLOUR, "TIFF", compression="tiff_lzw"), COLOUR),
    "white-is-zero-tiff": (tiff(GREY, photometric="miniswhite"), 255 - GREY),
    "tiled-tiff": (tiff(GREY, tile=(16, 16)), GREY),
}


@pytest.mark.parametrize(("data", "expected"), EXACT.values(), ids=EXACT)
def test_pixels_are_exact_whatever_the_name(
    data: bytes, expected: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "picture.dat"  # the content decides
    path.write_bytes(data)
    picture = load(path)
    assert isinstance(picture, Picture)
    np.testing.assert_array_equal(picture.array, expected)
    assert picture.array.dtype == expected.dtype
    assert picture.array.dtype.isnative
    assert picture.size == (40, 50)
    assert picture.spacing_mm is None


def test_jpeg_and_palettes_become_colours(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)
    (tmp_path / "a.jpg").write_bytes(encoded(smooth, "JPEG", quality=95))
    assert np.abs(load(tmp_path / "a.jpg").array.astype(int) - smooth).max() < 6
    image = Image.fromarray(GREY % 4).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path / "a.png").array, table[GREY % 4])
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, :4] = table.T.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", GREY % 4, photometric="palette", colormap=colormap)
    np.testing.assert_array_equal(load(tmp_path / "a.tif").array, table[GREY % 4])


def test_spacing_of_the_user_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(GREY, "PNG"))
    assert load(tmp_path / "a.png", spacing=(0.2, 0.3, 1)).spacing_mm == (0.3, 0.2)


def deep_colours() -> bytes:
    """A PNG with 16 bits per colour, which Pillow cannot write."""
    head = bytes([0, 0, 0, 2, 0, 0, 0, 2, 16, 2, 0, 0, 0])
    rows = zlib.compress(b"".join(b"\0" + bytes(12) for _ in range(2)))

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(COLOUR, "JPEG", exif=exif)


def transparent() -> bytes:
    return encoded(np.dstack([COLOUR, GREY]), "PNG")


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).convert("CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


NOTED = {
    "deep colours": (deep_colours(), "16 bits per colour read as 8"),
    "exif": (turned(), "EXIF orientation 6 not applied"),
    "alpha": (transparent(), "transparency ignored"),
    "alpha-tiff": (tiff(np.dstack([COLOUR, GREY]), photometric="rgb"), "transparency ignored"),
    "cmyk": (cmyk(), "CMYK colours converted to RGB"),
}


@pytest.mark.parametrize(("data", "fact"), NOTED.values(), ids=NOTED)
def test_losses_are_noted_once(data: bytes, fact: str, tmp_path: Path) -> None:
    (tmp_path / "a.img.dat").write_bytes(data)
    with pytest.warns(DataWarning, match=fact) as caught:
        assert load(tmp_path / "a.img.dat").array.shape[-1] == 3
    assert len(caught) == 1


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "description"
    data = encoded(COLOUR, "JPEG", exif=exif)
    entry = data.index(b"\x01\x0e" if b"MM\0*" in data else b"\x0e\x01", 12)
    broken = bytearray(data)
    broken[entry + 4 : entry + 8] = b"\xff\xff\xff\x7f"  # its length
    (tmp_path / "a.jpg").write_bytes(broken)
    assert load(tmp_path / "a.jpg").array.shape == COLOUR.shape


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


PNG, TIFF, JPEG = encoded(COLOUR, "PNG"), tiff(GREY), encoded(COLOUR, "JPEG")
BROKEN = {
    "F-06-png": (PNG[:-30], "truncated: ends at byte"),
    "F-06-png-end": (PNG[:-12], "truncated: ends at byte"),
    "F-80-png": (flipped(PNG, len(PNG) // 2), "checksum does not match in the chunk at byte"),
    "F-80-png-size": (flipped(PNG, 18), "checksum does not match in the chunk at byte 8"),
    "F-06-jpeg": (JPEG[: len(JPEG) // 2], "cannot be decoded"),
    "F-46-jpeg": (JPEG[:20], "cannot be decoded"),
    "F-06-tiff": (TIFF[:-100], "truncated: ends at byte"),
    "F-59-tiff": (TIFF.replace((2000).to_bytes(4, "little"), (99).to_bytes(4, "little")),
                  "truncated: ends at byte"),
    "F-46-tiff": (TIFF[:8], "cannot be decoded"),
    "F-29-tiff": (tiff(RNG.integers(0, 9, (4, 5, 7), dtype=np.uint8), photometric="minisblack",
                       planarconfig="contig"), "expected grey .* or colour"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "cause"), BROKEN.values(), ids=BROKEN)
def test_damaged_picture_is_refused(data: bytes, cause: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=cause) as caught:
        load(tmp_path / "a.png")
    assert "a.png" in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("data", [PNG, TIFF], ids=["png", "tiff"])
@fault("F-79")
def test_f79_every_cut_of_a_picture_is_refused(data: bytes, tmp_path: Path) -> None:
    for part in range(32):
        (tmp_path / "a.png").write_bytes(data[: len(data) * part // 32])
        with pytest.raises(InputError, match=r"a\.png"):
            load(tmp_path / "a.png")


@fault("F-13")
def test_f13_huge_picture_is_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((4000, 4000), np.uint8), "PNG"))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"limit is 0\.001 GB") as caught:
            load(tmp_path / "a.png", max_gb=0.001)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert caught.value.option == "--max-gb"


@fault("F-25")
def test_f25_pages_need_a_choice(tmp_path: Path) -> None:
    stack = np.stack([GREY, GREY // 2, GREY // 3])
    (tmp_path / "a.tif").write_bytes(tiff(stack, photometric="minisblack"))
    assert count_frames(tmp_path / "a.tif") == 3
    with pytest.raises(InputError, match="has 3 frames") as caught:
        load(tmp_path / "a.tif")
    assert caught.value.option == "--frame"
    np.testing.assert_array_equal(load(tmp_path / "a.tif", frame=1).array, GREY // 2)


def test_random_damage_gives_a_typed_error_or_a_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    path = tmp_path / "a.tif"
    small = tiff(GREY[:8, :8], compression="zlib")
    for _ in range(300):
        data = bytearray(small)
        for place in rng.integers(0, len(data), 2):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                load(path)
        except InputError as error:
            assert error.fix  # noqa: PT017
