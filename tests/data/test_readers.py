import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nifti_bytes import VOXELS, content, write

from segkit.data.files import DeflateStream, PlainStream, RegularFile
from segkit.data.readers import count_frames, load
from segkit.data.volume import Picture, Volume
from segkit.errors import DataWarning, InputError


@pytest.mark.parametrize(
    ("name", "data", "cause"),
    [
        ("a.txt", b"hello world" * 60, "unknown kind of file: starts with b'hello wo'"),
        ("a", bytes(600), "unknown kind of file"),
        ("a.dat.gz", gzip.compress(b"hello" * 99, mtime=0), "unknown kind of file"),
        ("F-51.npz", b"PK\x03\x04" + bytes(99), "NumPy files are not read"),
        ("a.png", b"GIF89a" + bytes(99), "not a PNG, JPEG or TIFF file"),
        ("a.nrrd", b"\x93NUMPY" + bytes(99), "not a NRRD file"),
    ],
)
def test_foreign_content_is_named(name: str, data: bytes, cause: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=cause) as caught:
        load(tmp_path / name)
    assert name in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("name", ["", "no/such", "a\0b"])
def test_paths_that_lead_nowhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist|holds no|is no path"):
        load(tmp_path / name if name else tmp_path / "gone.nii")


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=tmp_path.name):
        load(tmp_path)


def test_content_decides_over_the_name(tmp_path: Path) -> None:
    path = write(tmp_path / "volume.dat", content())
    volume = load(path)
    assert isinstance(volume, Volume)
    np.testing.assert_array_equal(volume.array, VOXELS)
    assert volume.path == path
    (tmp_path / "packed.dat").write_bytes(gzip.compress(content()))
    with pytest.warns(DataWarning, match="compressed although"):
        np.testing.assert_array_equal(load(tmp_path / "packed.dat").array, VOXELS)


def test_options_may_be_given_as_keywords_and_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", content())
    assert load(str(path), frame=0).array.shape == (16, 20, 24)
    with pytest.raises(TypeError, match="colour"):
        load(path, colour=1)


def test_frames_are_counted_without_reading(tmp_path: Path) -> None:
    series = np.stack([VOXELS] * 5)
    assert count_frames(write(tmp_path / "a.nii.gz", content(series))) == 5
    assert count_frames(write(tmp_path / "b.nii", content())) == 1


Open = Callable[[RegularFile], PlainStream | DeflateStream]


@pytest.mark.parametrize(("name", "kind"), [("a", PlainStream), ("a.gz", DeflateStream)])
def test_streams_skip_read_and_count_the_rest(name: str, kind: Open, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    with RegularFile(write(tmp_path / name, data)) as source:
        stream = kind(source)
        assert stream.skip(1_000_003) == 1_000_003
        out = bytearray(10)
        assert stream.read_into(memoryview(out)) == 10
        assert bytes(out) == data[1_000_003:1_000_013]
        assert stream.finish() == len(data) - 1_000_013


def test_real_pictures_and_volumes_load_silently(
    shared_data: Callable[[str], Path],
) -> None:
    pictures = sorted(shared_data("2d").glob("*/test/images/*"))[::7]
    volumes = sorted(shared_data("3d").rglob("*.nii.gz"))[:3]
    assert pictures
    assert volumes
    for path in pictures:
        assert isinstance(load(path), Picture)
    for path in volumes:
        volume = load(path)
        assert volume.geometry.shape == volume.array.shape
