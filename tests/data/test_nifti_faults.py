"""Damaged NIfTI files through `load`: each fault of the catalogue that must be refused."""

import os
import socket
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nifti_bytes import (
    NAN,
    SHAPE,
    VOXELS,
    Make,
    changed,
    content,
    fault,
    header,
    packed,
    plain,
    raw,
    sform_with,
    voxels,
    write,
)

from segkit.data.readers import load
from segkit.data.volume import Volume
from segkit.errors import DataWarning, InputError

SMALL_BYTES = 4 * 2**20  # what a refusal may allocate
ERRORS: list[tuple[str, Make, str]] = [
    ("F-01", raw("a.nii.gz", lambda: packed()[: len(packed()) // 2]), r"truncated at byte [\d,]+"),
    ("F-02", raw("a.nii.gz", lambda: packed()[:-8] + bytes(8)), "checksum .* does not match"),
    ("F-03", raw("a.nii.gz", lambda: b""), "empty file"),
    ("F-03-plain", raw("a.nii", lambda: b""), "empty file"),
    ("F-04", raw("a.nii.gz", lambda: b"not an image\n" * 99), "not a gzip stream"),
    ("F-06", raw("a.nii", lambda: bytes(content()[:7856])), r"ends at byte 7,856 of 15,712"),
    ("F-10", voxels(np.full(SHAPE, NAN, "f4")), "all voxels are NaN"),
    ("F-11", plain(dim_2=0), r"axis sizes \[24, 0, 16\], all must be >= 1"),
    ("F-12", plain(dim_2=-5), r"axis sizes \[24, -5, 16\]"),
    ("F-13", plain(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), r"ends at byte 15,712 of 70,3"),
    ("F-14", plain("a.nii.gz", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "cannot hold"),
    ("F-15", plain(dim_0=0), "ndim 0 not in 1-7"),
    ("F-16", plain(dim_0=9), "ndim 9 not in 1-7"),
    ("F-17", plain(vox_offset=NAN), "vox_offset is nan"),
    ("F-18", plain(vox_offset=1e30), "truncated: ends at byte 15,712"),
    ("F-19", plain(datatype=9999), "code 9999"),
    ("F-28", plain(dim=[1, 7680, 1, 1, 1, 1, 1, 1]), "one axis of 7680 values"),
    ("F-29", plain(dim=[5, 8, 20, 16, 1, 3, 1, 1]), r"vectors or more than four axes"),
    ("F-33", voxels(changed("f8", 1e300)), "overflows float32"),
    ("F-33-scaled", plain(scl_slope=1e37, scl_inter=5), "overflows float32"),
    ("F-40-huge", plain(version=2, qform_code=0, **sform_with({(0, 0): 1e200})), "no length of"),
    ("F-39", plain(qform_code=0, **sform_with({(2, 2): 0, (2, 3): 0})), "sform is singular"),
    ("F-40", plain(qform_code=0, **sform_with({(0, 0): NAN})), "sform holds NaN"),
    ("F-45", plain(magic=b"XXX"), r"magic b'XXX"),
    ("F-46", plain(sizeof_hdr=0x7FFFFFFF), "header size 2,147,483,647, expected 348 or 540"),
    ("F-51", raw("a.npy", lambda: b"\x93NUMPY\x01\x00" + bytes(99)), "NumPy files are not read"),
    ("F-58", plain(sform_code=0, quatern_b=3, quatern_c=3, quatern_d=3), "is no rotation"),
    ("F-59", plain(datatype=16, bitpix=32), "ends at byte 15,712 of 31,072"),
    ("F-60", plain(vox_offset=0), "vox_offset is 0, expected a whole number >= 352"),
    ("F-61", plain(vox_offset=348), "vox_offset is 348"),
    ("F-62", plain(vox_offset=-352), "vox_offset is -352"),
    ("F-63", plain(vox_offset=400), "ends at byte 15,712 of 15,760"),
    ("F-65", plain(scl_slope=2, scl_inter=NAN), "scl_inter is nan beside scl_slope 2"),
    ("F-72", plain(datatype=1, bitpix=1), "1-bit voxels not supported"),
    ("F-46-analyze", plain(magic=b""), "Analyze 7.5"),
    ("F-06-header", raw("a.nii", lambda: bytes(content()[:200])), "of the 348-byte header"),
    (
        "F-68-other",
        raw("a.nii.gz", lambda: packed()[:10] + b"\xff" * 400),
        "damaged compressed data",
    ),
]


@pytest.mark.parametrize(("make", "cause"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_unusable_file_is_refused_with_file_cause_and_fix(
    make: Make, cause: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=cause) as caught:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value)
    assert caught.value.fix
    assert caught.value.option is None
    assert peak < SMALL_BYTES


@fault("F-48")
def test_f48_size_over_budget_is_refused_before_inflating(tmp_path: Path) -> None:
    size = 64 * 2**20  # 64 MiB of zeros in about 64 kB
    record = header()
    record["dim"] = [3, 4096, 4096, 2, 1, 1, 1, 1]
    pack = zlib.compressobj(9, wbits=31)
    data = pack.compress(record.tobytes() + bytes(4))
    data += b"".join(pack.compress(bytes(2**20)) for _ in range(size >> 20)) + pack.flush()
    (tmp_path / "a.nii.gz").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"need 0\.07 GB, the limit is 0\.01 GB") as caught:
            load(tmp_path / "a.nii.gz", max_gb=0.01)
        assert tracemalloc.get_traced_memory()[1] < SMALL_BYTES
        assert caught.value.option == "--max-gb"
        tracemalloc.reset_peak()
        assert not load(tmp_path / "a.nii.gz").array.any()
        assert tracemalloc.get_traced_memory()[1] < 1.1 * size
    finally:
        tracemalloc.stop()


@fault("F-48")
def test_f48_budget_counts_scaled_voxels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", content(scl_slope=2))
    with pytest.raises(InputError, match=r"the limit is 2e-05 GB"):
        load(path, max_gb=2e-5)  # enough for 15,360 bytes of int16, not for twice as much
    assert load(path, max_gb=4e-5).array.dtype == np.float32


@fault("F-48")
def test_f48_endless_tail_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.data.files.MAX_EXCESS", 2**16)
    write(tmp_path / "a.nii.gz", bytes(content()) + bytes(2**21))
    with pytest.raises(InputError, match="goes on more than"):
        load(tmp_path / "a.nii.gz")


@fault("F-49")
def test_f49_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(InputError, match="is a folder, its name is that of a file"):
        load(tmp_path / "a.nii.gz")


@fault("F-76")
def test_f76_special_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.nii")
    with pytest.raises(InputError, match=r"fifo\.nii: is a FIFO"):
        load(tmp_path / "fifo.nii")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.nii"))
        with pytest.raises(InputError, match=r"s\.nii: is a socket"):
            load(tmp_path / "s.nii")
    with pytest.raises(InputError, match="is a device"):
        load("/dev/zero")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@fault("F-77")
def test_f77_file_that_changes_while_it_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / name, content())
    original = np.empty

    def replacing(*args: Any, **kwargs: Any) -> np.ndarray:
        other = write(tmp_path / f"other-{name}", content(VOXELS + 1))
        other.replace(path)
        return original(*args, **kwargs)

    monkeypatch.setattr("segkit.data.blocks.np.empty", replacing)
    with pytest.raises(InputError, match="changed during read"):
        load(path)


@fault("F-78")
def test_f78_unreadable_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nii").symlink_to("gone.nii")
    with pytest.raises(InputError, match=r"does not exist \(a link to gone\.nii\)"):
        load(tmp_path / "a.nii")
    (tmp_path / "b.nii").symlink_to("b.nii")
    with pytest.raises(InputError, match=r"loop of links \(a link to b\.nii\)"):
        load(tmp_path / "b.nii")
    write(tmp_path / "c.nii", content())

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("segkit.data.files.os.open", denied)
    with pytest.raises(InputError, match=r"c\.nii: may not be read; change its permissions"):
        load(tmp_path / "c.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@fault("F-79")
def test_f79_every_cut_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content())
    data = path.read_bytes()
    for part in range(64):
        path.write_bytes(data[: len(data) * part // 64])
        with pytest.raises(InputError, match=name):
            load(path)


@fault("F-80")
def test_f80_flipped_bits_never_change_voxels_silently(tmp_path: Path) -> None:
    data = packed()
    path = tmp_path / "a.nii.gz"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        broken = bytearray(data)
        broken[place] ^= 1 << bit
        path.write_bytes(broken)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                volume = load(path)
        except InputError:
            refused += 1
            continue
        assert place < 10  # only the gzip header holds bits without meaning
        np.testing.assert_array_equal(volume.array, VOXELS)
    assert refused > 990


def test_random_header_bytes_give_a_typed_error_or_a_volume(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "a.nii"
    for _ in range(600):
        data = content()
        for place in rng.integers(0, 348, rng.integers(1, 4)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)
                assert isinstance(load(path), Volume)
        except InputError as error:
            assert error.fix  # noqa: PT017
