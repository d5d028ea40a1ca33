"""Folders: other objects, links, many files, DICOMDIR."""

import os
import shutil
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_builder import (
    SLICES,
    assert_control,
    make_slice,
    read_quietly,
    read_warned,
    refuse,
    save,
    write_series,
)
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from segkit.data.dicom import read_series
from segkit.data.dicom_file import BoundedFile
from segkit.errors import InputError


def copy_without_preamble(folder: Path) -> None:
    for file in folder.iterdir():
        content = file.read_bytes()
        meta = 144 + struct.unpack("<I", content[140:144])[0]
        file.write_bytes(content[meta:])


@pytest.mark.parametrize("case", [pytest.param(0, id="D-24-no-preamble")])
def test_files_without_preamble(tmp_path: Path, case: int) -> None:
    folder = write_series(tmp_path / "s")
    copy_without_preamble(folder)
    assert_control(read_warned(folder, "10 files lack the DICOM preamble"))


def report(folder: Path) -> None:
    header = make_slice(0, "1.2.3.50")
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient"):
        del header[keyword]
    save(header, folder / "report.dcm")


def screen(folder: Path) -> None:
    header = make_slice(0, "1.2.3.6")
    del header.ImagePositionPatient
    save(header, folder / "dose_screen.dcm")


def dose(folder: Path) -> None:
    header = make_slice(0, "1.2.3.51")
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.2"
    save(header, folder / "dose.dcm")


@pytest.mark.parametrize(
    "add",
    [
        pytest.param(report, id="D-25-report"),
        pytest.param(screen, id="D-25-dose-screen"),
        pytest.param(dose, id="D-25-dose-grid"),
    ],
)
def test_other_objects_are_no_slices(tmp_path: Path, add: Callable[[Path], None]) -> None:
    folder = write_series(tmp_path / "s")
    (folder / "notes.txt").write_text("a remark that is no image")
    add(folder)
    volume = read_quietly(folder)
    assert_control(volume)
    assert volume.header["ignored_objects"] == 1


def test_folder_without_slices_counts_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a remark")
    report(tmp_path)
    refuse(
        tmp_path, "no DICOM slice with a position .1 DICOM objects without one, 0 unr.*, 1 other"
    )
    with pytest.raises(InputError, match="object without image slices"):
        read_series(tmp_path / "report.dcm")


@pytest.mark.parametrize("case", [pytest.param(0, id="D-18-link-loop")])
def test_link_loops_end(tmp_path: Path, case: int) -> None:
    folder = write_series(tmp_path / "s")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    start = time.monotonic()
    assert_control(read_quietly(folder))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("case", [pytest.param(0, id="D-18-link-to-itself")])
def test_link_to_itself_is_unreadable(tmp_path: Path, case: int) -> None:
    folder = write_series(tmp_path / "s")
    (folder / "self.dcm").symlink_to(folder / "self.dcm")
    with pytest.raises(InputError, match=r"self\.dcm: cannot be read as DICOM"):
        read_series(folder)


@pytest.mark.parametrize("count", [pytest.param(800, id="D-19-many-files")])
def test_scan_keeps_one_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    folder = write_series(tmp_path / "s")
    report(folder)
    for n in range(count):
        os.link(folder / "report.dcm", folder / f"copy{n:05d}")
    open_files = []
    seen = BoundedFile.__init__

    def watch(self: BoundedFile, path: str | Path) -> None:
        seen(self, path)
        if len(open_files) < 200:
            open_files.append(len(os.listdir("/proc/self/fd")))

    baseline = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(BoundedFile, "__init__", watch)
    volume = read_quietly(folder)
    assert_control(volume)
    assert volume.header["ignored_objects"] == count + 1
    assert max(open_files) - baseline <= 2


@pytest.mark.parametrize("case", [pytest.param(0, id="D-19-odd-files")])
def test_pipes_are_not_opened(tmp_path: Path, case: int) -> None:
    folder = write_series(tmp_path / "s")
    os.mkfifo(folder / "pipe.dcm")
    assert_control(read_quietly(folder))


def write_directory(folder: Path, names: list[list[str]]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
    directory = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    directory.DirectoryRecordSequence = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings():  # lower case is not allowed, but usual
            warnings.simplefilter("ignore")
            record.ReferencedFileID = name
        directory.DirectoryRecordSequence.append(record)
    save(directory, folder / "DICOMDIR")


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param(range(SLICES), id="D-17-consistent"),
        pytest.param(range(SLICES - 1), id="D-17-incomplete"),
        pytest.param(range(SLICES + 1), id="D-17-absent-file"),
    ],
)
def test_directory_serves_as_index_or_is_ignored(tmp_path: Path, listed: range) -> None:
    folder = tmp_path / "s"
    write_series(folder / "IMG")
    write_directory(folder, [["IMG", f"slice{k:03d}.dcm"] for k in listed])
    assert_control(read_quietly(folder))
    assert_control(read_quietly(folder / "DICOMDIR"))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(["..", "outside", "slice000.dcm"], id="D-17-dots"),
        pytest.param(["/etc/passwd"], id="D-17-absolute"),
        pytest.param(["link", "slice000.dcm"], id="D-17-link"),
    ],
)
def test_directory_must_not_leave_its_folder(tmp_path: Path, name: list[str]) -> None:
    write_series(tmp_path / "outside")
    write_series(tmp_path / "s")
    (tmp_path / "s" / "link").symlink_to(tmp_path / "outside")
    write_directory(tmp_path / "s", [name])
    refuse(tmp_path / "s", "lists a file outside its own folder", skip_unreadable=True)


@pytest.mark.parametrize("case", [pytest.param(0, id="D-17-damaged")])
def test_damaged_directory_is_ignored(tmp_path: Path, case: int) -> None:
    folder = write_series(tmp_path / "s")
    shutil.copy(folder / "slice000.dcm", folder / "DICOMDIR")
    with (folder / "DICOMDIR").open("rb+") as file:
        file.truncate(200)
    assert_control(read_quietly(folder))
