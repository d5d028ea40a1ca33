"""Damaged files and files that declare more than they hold."""

import os
import re
import resource
import struct
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from dicom_builder import (
    assert_control,
    refuse,
    write_series,
)
from pydicom.dataset import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from segkit.data.dicom import read_series
from segkit.data.options import ReadOptions
from segkit.errors import DataWarning, InputError


def cut_header(content: bytes) -> bytes:
    return content[:500]


def cut_pixels(content: bytes) -> bytes:
    return content[:-40]


def text(content: bytes) -> bytes:
    return b"text that pretends to be an image; " * 9


def nothing(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(cut_header, "ends before its pixel data|an element ends", id="D-20-header"),
        pytest.param(cut_pixels, r"ends at byte [\d,]+, but the file has", id="D-20-pixels"),
        pytest.param(text, "is not a DICOM file", id="D-20-text"),
        pytest.param(nothing, r"is empty \(0 bytes\)", id="D-20-empty"),
    ],
)
def test_unreadable_file(tmp_path: Path, damage: Callable[[bytes], bytes], match: str) -> None:
    folder = write_series(tmp_path / "s")
    file = folder / "slice004.dcm"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=rf"slice004\.dcm: .*({match})"):
        read_series(folder)
    refuse(folder, "misses 1 slice", skip_unreadable=True)
    with pytest.warns(DataWarning) as caught:
        volume = read_series(folder, options=ReadOptions(skip_unreadable=True, fill_gap=True))
    assert len(caught) == 2
    assert any("1 unreadable files were left out" in note for note in volume.notes)
    assert volume.header["gap_slices"] == (4,)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s")
    (folder / "slice004.dcm").chmod(0)
    with pytest.raises(InputError, match=r"slice004.*Permission denied"):
        read_series(folder)


@pytest.mark.parametrize(
    "step", [pytest.param(n, id=f"D-20-cut-{n}-of-64") for n in range(0, 64, 5)]
)
def test_cut_anywhere_is_refused(tmp_path: Path, step: int) -> None:
    file = next(write_series(tmp_path / "s", slices=[0]).iterdir())
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * step // 64])
    with pytest.raises(InputError, match=re.escape(file.name)):
        read_series(file)


def explicit_bomb(content: bytes) -> bytes:
    """A private element of 2 GB before the pixel data."""
    element = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 1 << 31)
    at = content.index(struct.pack("<HH", 0x0010, 0x0010))
    return content[:at] + element + content[at:]


def pixel_bomb(content: bytes) -> bytes:
    at = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    return content[:at] + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 0xF0000000)


def sequence_bomb(content: bytes) -> bytes:
    """A 4 GB value inside an item of a sequence of undefined length."""
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    inner += struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 0xF0000000)
    element = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + inner
    at = content.index(struct.pack("<HH", 0x0010, 0x0010))
    return content[:at] + element + content[at:]


def size_bomb(content: bytes) -> bytes:
    rows = struct.pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 8)
    return content.replace(rows, rows[:-2] + b"\xff\xff")


@pytest.mark.parametrize(
    ("bomb", "match"),
    [
        pytest.param(explicit_bomb, r"ends at byte 2,147,", id="D-27-private-element"),
        pytest.param(pixel_bomb, r"ends at byte 4,026,", id="D-27-pixel-data"),
        pytest.param(sequence_bomb, r"ends at byte 4,026,", id="D-27-nested"),
        pytest.param(size_bomb, r"65535 x 8 pixels .1,048,560 bytes.*128 bytes", id="D-27-rows"),
    ],
)
def test_declared_gigabytes_are_not_allocated(
    tmp_path: Path, bomb: Callable[[bytes], bytes], match: str
) -> None:
    file = next(write_series(tmp_path / "s", slices=[0]).iterdir())
    file.write_bytes(bomb(file.read_bytes()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(InputError, match=match):
        read_series(tmp_path / "s")
    assert time.monotonic() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


@pytest.mark.parametrize("case", [pytest.param(0, id="D-27-deflate-bomb")])
def test_deflated_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: int
) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        header.private_block(0x0011, "X", create=True).add_new(1, "OB", bytes(1 << 21))

    folder = write_series(tmp_path / "s", edit, slices=[0])
    assert next(folder.iterdir()).stat().st_size < 10_000
    monkeypatch.setattr("segkit.data.dicom_file._MAX_INFLATED", 1 << 20)
    with pytest.raises(InputError, match=r"deflated content exceeds 1,048,576 bytes"):
        read_series(folder)


@pytest.mark.parametrize("seed", [pytest.param(seed, id=f"D-20-fuzz-{seed}") for seed in range(6)])
def test_damage_anywhere_is_a_typed_error_or_harmless(tmp_path: Path, seed: int) -> None:
    (file,) = write_series(tmp_path / "s", slices=[0]).iterdir()
    original, random = file.read_bytes(), np.random.default_rng(seed)
    for _ in range(30):
        content = bytearray(original)
        for place in random.integers(130, len(content), 3):
            content[place] = random.choice([0, 255, content[place] ^ 1])
        file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            # anything but this typed error would fail the test
            with suppress(InputError):
                volume = read_series(file)
                assert volume.array.shape == volume.geometry.shape


def test_threads_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        volumes = list(pool.map(read_series, [folder] * 12))
    assert warnings.filters == before
    for volume in volumes:
        assert_control(volume)
