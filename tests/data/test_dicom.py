"""Series that are read as they are, and what a person must declare."""

from pathlib import Path

import numpy as np
import pytest
from dicom_builder import (
    SLICES,
    SPACING,
    STEP,
    Edit,
    assert_control,
    expected_array,
    read_quietly,
    read_warned,
    refuse,
    write_series,
)
from pydicom.dataset import FileDataset

from segkit.data.dicom import is_dicom


def reverse_names(k: int, header: FileDataset) -> None:
    header.InstanceNumber = SLICES - k


def shuffle_numbers(k: int, header: FileDataset) -> None:
    header.InstanceNumber = (k * 7) % SLICES


def thick(k: int, header: FileDataset) -> None:
    header.SliceThickness = 8


def odd_instance(k: int, header: FileDataset) -> None:
    header.InstanceNumber = None


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(None, id="D-00-control"),
        pytest.param(reverse_names, id="D-00-descending-numbers"),
        pytest.param(odd_instance, id="D-00-no-instance-number"),
        pytest.param(shuffle_numbers, id="D-05-instance-number-out-of-order"),
        pytest.param(thick, id="D-11-thickness-is-not-distance"),
    ],
)
def test_regular_series_are_exact(tmp_path: Path, edit: Edit | None) -> None:
    assert_control(read_quietly(write_series(tmp_path / "s", edit)))


@pytest.mark.parametrize("case", [pytest.param("z", id="D-00-descending-z-in-names")])
def test_file_names_do_not_order_slices(tmp_path: Path, case: str) -> None:
    write_series(tmp_path / "s")
    files = sorted((tmp_path / "s").iterdir())
    for n, file in enumerate(files):
        file.rename(tmp_path / "s" / f"{SLICES - n:03d}.dcm")
    assert_control(read_quietly(tmp_path / "s"))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-09-monochrome1")])
def test_monochrome1_keeps_its_values(tmp_path: Path, case: int) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.PhotometricInterpretation = "MONOCHROME1"

    volume = read_quietly(write_series(tmp_path / "s", edit))
    assert_control(volume)
    assert volume.header["is_inverted"] is True


def no_spacing(k: int, header: FileDataset) -> None:
    del header.PixelSpacing


def absurd_spacing(k: int, header: FileDataset) -> None:
    header.PixelSpacing = ["1e-12", "1e200"]


def zero_spacing(k: int, header: FileDataset) -> None:
    header.PixelSpacing = [0, 0]


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(no_spacing, id="D-14-missing"),
        pytest.param(zero_spacing, id="D-14-zero"),
        pytest.param(absurd_spacing, id="D-14-absurd"),
    ],
)
def test_pixel_spacing_must_be_declared(tmp_path: Path, edit: Edit) -> None:
    folder = write_series(tmp_path / "s", edit)
    assert refuse(folder, "no PixelSpacing.*--spacing").option == "--spacing"
    volume = read_warned(folder, "declared by the user", spacing=(0.5, 0.7, 9))
    np.testing.assert_allclose(volume.geometry.spacing_mm, (STEP, 0.7, 0.5))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-16-identifiers")])
def test_nothing_identifying_leaves_the_reader(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: int
) -> None:
    def edit(k: int, header: FileDataset) -> None:
        block = header.private_block(0x0011, "CANARY MAKER", create=True)
        block.add_new(1, "LO", "CANARY PRIVATE")
        header.SeriesDescription, header.ReferringPhysicianName = "CANARY", "CANARY^DOCTOR"

    caplog.set_level("DEBUG")
    volume = read_quietly(write_series(tmp_path / "s", edit))
    carried = repr((volume.header, volume.notes, volume.labels, caplog.text))
    assert "CANARY" not in carried
    assert "1.2.3" not in carried


def test_is_dicom_looks_at_content(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", slices=[0])
    (tmp_path / "text.dcm").write_text("no image at all, just a long line of text " * 9)
    assert is_dicom(folder)
    assert is_dicom(next(folder.iterdir()))
    assert not is_dicom(tmp_path / "text.dcm")
    assert not is_dicom(tmp_path / "absent")


def test_single_slice_of_unknown_thickness_warns(tmp_path: Path) -> None:
    def edit(k: int, header: FileDataset) -> None:
        del header.SliceThickness

    folder = write_series(tmp_path / "s", edit, slices=[2])
    volume = read_warned(folder, "unknown thickness; 1 mm is assumed")
    assert volume.geometry.spacing_mm == pytest.approx((1, SPACING, SPACING))


def test_radiograph_has_no_frame(tmp_path: Path) -> None:
    def edit(k: int, header: FileDataset) -> None:
        del header.ImagePositionPatient

    folder = write_series(tmp_path / "s", edit, slices=[2])
    refuse(folder, "no DICOM slice with a position")
    volume = read_warned(folder / "slice002.dcm", "unknown frame")
    assert not volume.geometry.is_known
    np.testing.assert_array_equal(volume.array, expected_array([2]))


def test_budget_is_checked_before_allocation(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s")
    assert refuse(folder, r"--max-gb", max_gb=1e-6).option == "--max-gb"
