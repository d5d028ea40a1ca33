"""Positions of slices: gaps, tilt, uneven distances."""

from pathlib import Path

import numpy as np
import pytest
from dicom_builder import (
    SLICES,
    SPACING,
    STEP,
    Edit,
    assert_control,
    expected_affine,
    expected_array,
    read_quietly,
    read_warned,
    refuse,
    write_series,
)
from pydicom.dataset import FileDataset

from segkit.data.dicom import read_series
from segkit.errors import InputError


@pytest.mark.parametrize("missing", [pytest.param(4, id="D-01-missing-slice")])
def test_a_missing_slice_is_never_stretched_over(tmp_path: Path, missing: int) -> None:
    kept = [k for k in range(SLICES) if k != missing]
    folder = write_series(tmp_path / "s", slices=kept)
    error = refuse(folder, r"misses 1 slice.*between 39 and 45 mm.*--fill-gap")
    assert error.option == "--fill-gap"
    volume = read_warned(
        folder, r"1 missing slices were filled \(gap slices k = 4\)", fill_gap=True
    )
    assert volume.header["gap_slices"] == (missing,)
    np.testing.assert_allclose(volume.geometry.affine, expected_affine(), atol=1e-6)
    np.testing.assert_array_equal(volume.array[kept], expected_array(kept))
    between = (expected_array([3, 5]).astype(float)).mean(axis=0)
    assert np.abs(volume.array[missing] - between).max() <= 0.5


@pytest.mark.parametrize("case", [pytest.param(0, id="D-06-gantry-tilt")])
def test_tilt_keeps_its_shear(tmp_path: Path, case: int) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.ImagePositionPatient = [10.0, 20.0 + 0.9 * k, 30.0 + STEP * k]

    volume = read_quietly(write_series(tmp_path / "s", edit))
    affine = expected_affine()
    affine[1, 2] = -0.9
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(volume.array, expected_array())


def ramp_edit(heights: list[float], sideways: float = 0.0) -> Edit:
    """Pixels that equal their height in mm; slice 4 may lie `sideways` mm to the right."""

    def edit(k: int, header: FileDataset) -> None:
        aside = sideways if k == 4 else 0.0
        header.ImagePositionPatient = [10.0 + aside, 20.0, heights[k]]
        grid = np.full((8, 8), 1000 + 10 * heights[k])
        grid += 20 * (np.arange(8) * SPACING + aside)
        header.PixelData = np.rint(grid).astype(np.uint16).tobytes()

    return edit


@pytest.mark.parametrize(
    ("off", "sideways"),
    [
        pytest.param(1.2, 0.0, id="D-07-off-its-place"),
        pytest.param(0.0, 1.2, id="D-07-off-sideways"),
    ],
)
def test_uneven_slices_are_resampled_on_request(
    tmp_path: Path, off: float, sideways: float
) -> None:
    heights = [STEP * k + (off if k == 4 else 0) for k in range(SLICES)]
    folder = write_series(tmp_path / "s", ramp_edit(heights, sideways))
    assert refuse(folder, "unevenly spaced.*1.2 mm off.*--regrid").option == "--regrid"
    volume = read_warned(folder, "10 unevenly spaced slices were resampled to 10", regrid=True)
    np.testing.assert_allclose(volume.geometry.spacing_mm, (STEP, SPACING, SPACING), atol=1e-6)
    # on a linear ramp, linear resampling is exact up to the rounding of the stored values
    truth = 1000 + 10 * STEP * np.arange(SLICES)[:, None] + 20 * SPACING * np.arange(8)
    inner = slice(1, -1) if off else slice(2, 8)
    assert np.abs(volume.array[:, 3, inner] - (truth - 1024)[:, inner]).max() <= 1.0


@pytest.mark.parametrize("case", [pytest.param(0, id="D-07-within-tolerance")])
def test_rounded_positions_are_regular(tmp_path: Path, case: int) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.ImagePositionPatient = [10.0, 20.0, 30 + STEP * k + 0.02 * (k == 4)]

    assert_control(read_quietly(write_series(tmp_path / "s", edit)))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-23-tilt-with-uneven-gaps")])
def test_tilt_with_uneven_gaps(tmp_path: Path, case: int) -> None:
    heights = np.cumsum([0, 4.0, 1.08, 7.0, 4.0, 4.0, 4.0, 1.08, 7.0, 4.0])
    slope = np.tan(np.deg2rad(18.5))

    def edit(k: int, header: FileDataset) -> None:
        header.ImagePositionPatient = [10.0, round(20.0 + slope * heights[k], 6), heights[k]]

    folder = write_series(tmp_path / "s", edit)
    assert refuse(folder, "distances from 1.08 to 7 mm.*--regrid").option == "--regrid"
    volume = read_warned(folder, "10 unevenly spaced slices were resampled to 10", regrid=True)
    step = volume.geometry.affine[:3, 2]
    assert step[1] / -step[2] == pytest.approx(slope, abs=1e-6)
    np.testing.assert_array_equal(volume.array[0], expected_array([0])[0])


def test_slices_far_apart_are_not_one_stack(tmp_path: Path) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.ImagePositionPatient = [10, 20, STEP * k + (3000 if k > 4 else 0)]

    refuse(write_series(tmp_path / "s", edit), "spread over the room of", fill_gap=True)


def test_positions_that_make_no_lattice_are_typed_errors(tmp_path: Path) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.ImagePositionPatient = [90_000.0 * k, 0.0, 0.01 * k]

    refuse(write_series(tmp_path / "s", edit), "make no lattice")


def test_positions_out_of_reach_are_refused(tmp_path: Path) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.ImagePositionPatient = [0.0, 0.0, f"{1e200 * (k + 1):g}"]

    with pytest.raises(InputError, match=r"slice000\.dcm: cannot be read as DICOM"):
        read_series(write_series(tmp_path / "s", edit))
