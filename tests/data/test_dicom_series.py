"""One stack out of many: series, patients, orientations, copies and time points."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_builder import (
    ANY,
    SLICES,
    Edit,
    assert_control,
    expected_affine,
    pixels_of,
    read_quietly,
    read_warned,
    refuse,
    write_series,
)
from pydicom.dataset import FileDataset

from segkit.data.dicom import read_series
from segkit.errors import InputError


@pytest.mark.parametrize(
    "is_equal",
    [pytest.param(True, id="D-02-equal-copy"), pytest.param(False, id="D-02-different-pixels")],
)
def test_duplicated_slice(tmp_path: Path, is_equal: bool) -> None:
    def edit(k: int, header: FileDataset) -> None:
        if not is_equal:
            header.PixelData = pixels_of(99).tobytes()

    folder = write_series(tmp_path / "s")
    write_series(folder, edit, slices=[4], prefix="copy")
    if is_equal:
        assert_control(read_warned(folder, "1 copies of slices .* were dropped"))
    else:
        assert refuse(folder, "1 positions with more than one slice").option is None
        refuse(folder, "pixels differ", fill_gap=True, regrid=True, frame=0)


@pytest.mark.parametrize("case", [pytest.param(0, id="D-03-two-series")])
def test_two_series_are_listed(tmp_path: Path, case: int) -> None:
    folder = write_series(tmp_path / "s")
    write_series(folder, slices=range(4), series="1.2.3.99", prefix="other")
    error = refuse(folder, r"2 series: .*1\.2\.3\.6 \(CT, 10 slices of 8 x 8\)")
    assert error.option == "--series"
    assert_control(read_warned(folder, "4 slices of other series", series="1.2.3.6"))
    refuse(folder, "no series '1.2'", series="1.2")


@pytest.mark.parametrize("case", [pytest.param(0, id="D-04-two-patients")])
def test_two_patients_are_never_merged(tmp_path: Path, case: int) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.PatientID = "CANARY-A" if k < 5 else "CANARY-B"

    error = refuse(write_series(tmp_path / "s", edit), "2 different PatientIDs", series="1.2.3.6")
    assert error.option is None


@pytest.mark.parametrize("case", [pytest.param(0, id="D-08-localizer")])
def test_localizer_is_a_group_of_its_own(tmp_path: Path, case: int) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    folder = write_series(tmp_path / "s")
    write_series(folder, edit, slices=[0], prefix="localizer")
    error = refuse(folder, r"2 orientations.*1\.2\.3\.6:1 \(CT, 10 slices.*1\.2\.3\.6:2 \(CT, 1 sl")
    assert error.option == "--series"
    assert_control(read_warned(folder, "1 slices of other", series="1.2.3.6:1"))
    refuse(folder, "2 orientations", series="1.2.3.6:3")


def sizes(k: int, header: FileDataset) -> None:
    if k == 3:
        header.Rows = 4
        header.PixelData = header.PixelData[:64]


def spacings(k: int, header: FileDataset) -> None:
    if k == 3:
        header.PixelSpacing = [0.8, 0.9]


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        pytest.param(sizes, r"9 of 8 x 8, 1 of 4 x 8", id="D-29-rows"),
        pytest.param(spacings, r"0.8 x 0.8 mm, 0.8 x 0.9 mm", id="D-29-spacing"),
    ],
)
def test_mixed_slices_are_refused(tmp_path: Path, edit: Edit, match: str) -> None:
    folder = write_series(tmp_path / "s", edit)
    assert refuse(folder, match).option is None
    with pytest.raises(InputError, match=match):
        read_series(folder, options=ANY)


@pytest.mark.parametrize(
    ("off", "outcome"),
    [
        pytest.param(1e-7, "OK", id="D-30-exact"),
        pytest.param(5e-5, "W", id="D-30-slightly-off"),
        pytest.param(5e-4, "E", id="D-30-not-unit"),
    ],
)
def test_directions_must_be_unit(tmp_path: Path, off: float, outcome: str) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.ImageOrientationPatient = [1 + off, 0, 0, 0, 1, 0]

    folder = write_series(tmp_path / "s", edit)
    if outcome == "E":
        assert refuse(folder, "off unit length or a right angle by 0.0005").option is None
    else:
        assert_control(
            read_quietly(folder) if outcome == "OK" else read_warned(folder, "off by 5e-05")
        )


@pytest.mark.parametrize("case", [pytest.param(0, id="D-30-not-orthogonal")])
def test_directions_must_be_orthogonal(tmp_path: Path, case: int) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.ImageOrientationPatient = [1, 0, 0, 0.01, 0.99995, 0]

    refuse(write_series(tmp_path / "s", edit), "right angle by 0.01")


def add_time(points: int) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        for t in range(points):

            def edit(k: int, header: FileDataset, t: int = t) -> None:
                header.InstanceNumber = t * SLICES + k
                header.PixelData = (pixels_of(k) // (t + 1)).astype(np.uint16).tobytes()

            write_series(folder, edit, prefix=f"t{t}")
        return folder

    return build


@pytest.mark.parametrize("points", [pytest.param(5, id="D-21-time-points")])
def test_time_points_are_never_stacked(tmp_path: Path, points: int) -> None:
    folder = add_time(points)(tmp_path / "s")
    error = refuse(folder, "5 images at each position.*--frame N, N from 0 to 4")
    assert error.option == "--frame"
    volume = read_warned(folder, "40 images of other time points", frame=2)
    np.testing.assert_allclose(volume.geometry.affine, expected_affine(), atol=1e-6)
    expected = np.stack([pixels_of(k) // 3 for k in range(SLICES)]).astype(np.int16) - 1024
    np.testing.assert_array_equal(volume.array, expected)
    refuse(folder, "5 images at each", frame=5)


@pytest.mark.parametrize("case", [pytest.param(0, id="D-21-incomplete-last-time-point")])
def test_incomplete_time_point_is_told_by_its_identifier(tmp_path: Path, case: int) -> None:
    for t, count in ((0, 10), (1, 8)):

        def edit(k: int, header: FileDataset, t: int = t) -> None:
            header.TemporalPositionIdentifier = t + 1
            header.PixelData = (pixels_of(k) // (t + 1)).astype(np.uint16).tobytes()

        write_series(tmp_path / "s", edit, slices=range(count), prefix=f"t{t}")
    assert_control(read_warned(tmp_path / "s", "8 images of other", frame=0))


def test_two_frames_of_reference_are_refused(tmp_path: Path) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.FrameOfReferenceUID = f"1.2.{k // 5 + 1}"

    refuse(write_series(tmp_path / "s", edit), "2 frames of reference")
