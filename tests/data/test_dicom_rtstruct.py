"""RT structure sets: written for a series, read back onto the same voxels by two readers."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_builder import SLICES, Edit, oblique, write_series
from pydicom.dataset import FileDataset

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


def square(k: int, header: FileDataset) -> None:
    """An oblique slice; rt_utils takes the distance of rows for that of columns, so both equal."""
    oblique(k, header)
    header.PixelSpacing = [0.8, 0.8]


@pytest.mark.parametrize("edit", [None, square])
def test_an_independent_reader_finds_the_same_voxels(tmp_path: Path, edit: Edit | None) -> None:
    rt_utils = pytest.importorskip("rt_utils", reason="extra [dev]")
    source, mask = read_series(write_series(tmp_path / "series", edit)), some_mask()
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


def test_contours_alone_are_no_volume(tmp_path: Path) -> None:
    source = read_series(write_series(tmp_path / "series"))
    write_rtstruct(tmp_path / "m.dcm", some_mask(), source)
    with pytest.raises(InputError, match=r"without image slices; .*read_rtstruct"):
        read_series(tmp_path / "m.dcm")


def test_oblique_and_anisotropic_masks_survive_the_round_trip(tmp_path: Path) -> None:
    like = read_series(write_series(tmp_path / "series", oblique))
    assert np.ptp(like.geometry.spacing_mm) > 2
    save(tmp_path / "m.rtstruct.dcm", some_mask(), like, labels={1: "liver", 4: "tumour"})
    back = read_rtstruct(tmp_path / "m.rtstruct.dcm", like=like)
    np.testing.assert_array_equal(back["liver"], some_mask() == 1)
    np.testing.assert_array_equal(back["tumour"], some_mask() == 4)


def test_an_independent_reader_finds_the_voxels_of_an_oblique_mask(tmp_path: Path) -> None:
    """ITK's index of every outline's point, from the series as SimpleITK reads it."""
    sitk = pytest.importorskip("SimpleITK")
    like = read_series(write_series(tmp_path / "series", oblique))
    mask = some_mask() == 4
    write_rtstruct(tmp_path / "m.dcm", np.where(mask, np.uint8(4), np.uint8(0)), like)
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series"))
    image = sitk.ReadImage(files)
    (contour,) = pydicom.dcmread(tmp_path / "m.dcm").ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    ijk = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in points])
    k = np.unique(np.round(ijk[:, 2], 3))
    held = sitk.GetArrayFromImage(image) == like.array
    if not held.all():  # the other direction of the slices
        k = len(mask) - 1 - k
    assert k == [7]
    rows, columns = np.nonzero(mask[7])
    assert ijk[:, :2].min(axis=0) == pytest.approx(
        (columns.min() - 0.5, rows.min() - 0.5), abs=0.51
    )
    assert ijk[:, :2].max(axis=0) == pytest.approx(
        (columns.max() + 0.5, rows.max() + 0.5), abs=0.51
    )


@pytest.mark.parametrize(
    "identifiers",
    [pytest.param(False, id="V-01-V-02-without"), pytest.param(True, id="V-01-V-02-asked-for")],
)
def test_identifiers_only_on_request(tmp_path: Path, identifiers: bool) -> None:
    def edit(k: int, header: FileDataset) -> None:
        header.PatientComments = header.InstitutionName = header.StudyDescription = "CANARY-REST"
        header.private_block(0x11, "CANARY-MAKER", create=True).add_new(1, "LO", "CANARY-PRIVATE")

    like = read_series(write_series(tmp_path / "CANARY-FOLDER", edit))
    write_rtstruct(tmp_path / "mask.dcm", some_mask(), like, identifiers=identifiers)
    content = (tmp_path / "mask.dcm").read_bytes()
    for asked in (b"CANARY-ID", b"CANARY^NAME"):
        assert (asked in content) is identifiers
    for never in (b"CANARY-REST", b"CANARY-MAKER", b"CANARY-PRIVATE", b"CANARY-FOLDER"):
        assert never not in content


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
