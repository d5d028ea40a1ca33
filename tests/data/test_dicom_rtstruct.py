"""RT structure sets: written for a series, read back onto the same voxels by two readers."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_builder import SLICES, write_series

from segkit.data.dicom import read_series
from segkit.data.dicom_rtstruct import read_rtstruct, write_rtstruct
from segkit.data.volume import Volume
from segkit.data.writers import save
from segkit.errors import InputError
from segkit.geometry import Geometry


@pytest.fixture
def source(tmp_path: Path) -> Volume:
    return read_series(write_series(tmp_path / "series"))


def some_mask() -> np.ndarray:
    """A body with a hole, an island in the hole, a diagonal, border pixels, and a second label."""
    mask = np.zeros((SLICES, 8, 8), dtype=np.uint8)
    mask[2:5, 0:7, 1:8] = 1
    mask[2:5, 2:5, 3:6] = 0
    mask[3, 3, 4] = 1
    mask[6, 2, 2] = mask[6, 3, 3] = mask[6, 4, 2] = 1
    mask[7, 5:8, 0:2] = 4
    return mask


def test_masks_survive_the_round_trip(source: Volume, tmp_path: Path) -> None:
    file = tmp_path / "mask.rtstruct.dcm"
    save(file, some_mask(), source, labels={1: "liver", 4: "tumour"})
    back = read_rtstruct(file, like=source)
    assert list(back) == ["liver", "tumour"]
    np.testing.assert_array_equal(back["liver"], some_mask() == 1)
    np.testing.assert_array_equal(back["tumour"], some_mask() == 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.rtstruct.dcm", "series"]


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_survive_the_round_trip(source: Volume, tmp_path: Path, seed: int) -> None:
    mask = np.random.default_rng(seed).random((SLICES, 8, 8)) < 0.5
    write_rtstruct(tmp_path / "m.dcm", mask, source)
    np.testing.assert_array_equal(read_rtstruct(tmp_path / "m.dcm", like=source)["label 1"], mask)


def test_an_independent_reader_finds_the_same_voxels(source: Volume, tmp_path: Path) -> None:
    rt_utils = pytest.importorskip("rt_utils", reason="extra [dev]")
    mask = some_mask()
    write_rtstruct(tmp_path / "m.dcm", mask, source, {1: "liver", 4: "tumour"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own use of pydicom
        read = rt_utils.RTStructBuilder.create_from(
            str(tmp_path / "series"), str(tmp_path / "m.dcm")
        )
        found = {name: read.get_roi_mask_by_name(name) for name in read.get_roi_names()}
    # (row, column, slice), slices in ascending position as ours
    for name, value in (("liver", 1), ("tumour", 4)):
        np.testing.assert_array_equal(np.moveaxis(found[name], 2, 0), mask == value)


def test_references_point_at_the_source_and_at_nobody(source: Volume, tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "m.dcm", some_mask(), source)
    written = pydicom.dcmread(tmp_path / "m.dcm")
    slices = {
        item.SOPInstanceUID: item
        for item in map(pydicom.dcmread, sorted((tmp_path / "series").iterdir()))
    }
    (frame,) = written.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    named = {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence}
    assert named == set(slices)
    for contour in written.ROIContourSequence[0].ContourSequence:
        (image,) = contour.ContourImageSequence
        position = slices[image.ReferencedSOPInstanceUID].ImagePositionPatient
        assert float(contour.ContourData[2]) == pytest.approx(float(position[2]))
    assert written.PatientName == ""
    assert written.PatientID == ""


def test_identifiers_are_copied_on_request(source: Volume, tmp_path: Path) -> None:
    first = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    write_rtstruct(tmp_path / "m.dcm", some_mask(), source, identifiers=True)
    assert pydicom.dcmread(tmp_path / "m.dcm").PatientID == first.get("PatientID", "")


def test_another_image_is_refused(source: Volume, tmp_path: Path) -> None:
    write_rtstruct(tmp_path / "m.dcm", some_mask(), source)
    shifted = source.geometry.affine.copy()
    shifted[2, 3] += 1.0
    other = Volume(source.array, Geometry(source.array.shape, shifted))
    with pytest.raises(InputError, match=r"m\.dcm: has a contour .* slices off slice"):
        read_rtstruct(tmp_path / "m.dcm", like=other)
    with pytest.raises(InputError, match="is no RT structure set"):
        read_rtstruct(next((tmp_path / "series").iterdir()), like=source)


def test_only_a_series_has_structure_sets(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 4, 4)), Geometry.from_spacing((2, 4, 4), (1, 1, 1)))
    with pytest.raises(InputError, match="structure set needs a source series"):
        write_rtstruct(tmp_path / "m.dcm", np.ones((2, 4, 4), np.uint8), volume)
    assert not list(tmp_path.iterdir())
