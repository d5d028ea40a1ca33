"""Segmentation objects: written for a series, read back onto its grid."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_builder import (
    SLICES,
    SPACING,
    STEP,
    Edit,
    enhanced,
    expected_affine,
    oblique,
    save,
    write_series,
)
from pydicom.dataset import Dataset, FileDataset

from segkit.data.dicom import read_series
from segkit.data.dicom_seg import read_seg, read_seg_channels, write_seg
from segkit.data.options import ReadOptions
from segkit.data.volume import Volume
from segkit.errors import InputError, MissingExtraError
from segkit.geometry import Geometry

NAMES = {1: "liver", 4: "tumour"}


def some_mask() -> np.ndarray:
    mask = np.zeros((SLICES, 8, 8), dtype=np.uint8)
    mask[2:6, 1:5, 2:7] = 1
    mask[4:8, 3:4, 3:5] = 4
    return mask


def numbered(mask: np.ndarray) -> np.ndarray:
    """Values 1, 4 as segment numbers 1, 2."""
    return np.where(mask == 4, 2, mask)


@pytest.fixture
def source(tmp_path: Path) -> Volume:
    return read_series(write_series(tmp_path / "series"))


def test_a_label_map_survives_the_round_trip(source: Volume, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    file = tmp_path / "mask.dcm"
    write_seg(file, some_mask(), source, NAMES)
    back = read_seg(file, like=source)
    np.testing.assert_array_equal(back.array, numbered(some_mask()))
    assert dict(back.labels) == {1: "liver", 2: "tumour"}
    assert back.geometry is source.geometry
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.dcm", "series"]


def test_an_independent_reader_finds_the_voxels_of_an_oblique_mask(tmp_path: Path) -> None:
    """The volume of highdicom: the same voxels at the same millimetres."""
    highdicom = pytest.importorskip("highdicom", reason="extra [dicom]")
    like = read_series(write_series(tmp_path / "series", oblique))
    assert np.ptp(like.geometry.spacing_mm) > 2
    write_seg(tmp_path / "mask.dcm", some_mask(), like, NAMES)
    np.testing.assert_array_equal(
        read_seg(tmp_path / "mask.dcm", like=like).array, numbered(some_mask())
    )
    found = highdicom.seg.segread(str(tmp_path / "mask.dcm")).get_volume(combine_segments=True)
    # its affine goes from (slice, row, column) to LPS, ours from (i, j, k) to RAS
    index = np.argwhere(np.asarray(found.array) > 0)
    lps = np.c_[index, np.ones(len(index))] @ np.asarray(found.affine).T
    back = np.linalg.inv(like.geometry.affine) @ (lps * [-1, -1, 1, 1]).T
    k, j, i = np.round(back[2::-1]).astype(int)
    np.testing.assert_allclose(back[2::-1], [k, j, i], atol=1e-4)
    mask = np.zeros_like(some_mask())
    mask[k, j, i] = np.asarray(found.array)[tuple(index.T)]
    np.testing.assert_array_equal(mask, numbered(some_mask()))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-26-own-grid")])
def test_without_an_image_it_has_a_grid_of_its_own(
    source: Volume, tmp_path: Path, case: int
) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    write_seg(tmp_path / "mask.dcm", some_mask(), source, NAMES)
    volume = read_series(tmp_path / "mask.dcm")
    np.testing.assert_array_equal(volume.array, numbered(some_mask())[2:8])
    affine = expected_affine()
    affine[2, 3] += 2 * STEP
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-6)


def test_references_point_at_the_source(source: Volume, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    write_seg(tmp_path / "mask.dcm", some_mask(), source)
    written = pydicom.dcmread(tmp_path / "mask.dcm")
    slices = [pydicom.dcmread(file) for file in sorted((tmp_path / "series").iterdir())]
    (series,) = written.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    named = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert named == {one.SOPInstanceUID for one in slices}
    assert written.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert [item.SegmentLabel for item in written.SegmentSequence] == ["label 1", "label 4"]


@pytest.mark.parametrize(
    "identifiers",
    [pytest.param(False, id="V-01-without"), pytest.param(True, id="V-01-asked-for")],
)
def test_identifiers_only_on_request(tmp_path: Path, identifiers: bool) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")

    def edit(k: int, header: FileDataset) -> None:
        header.PatientComments = header.InstitutionName = header.StudyDescription = "CANARY-REST"
        header.private_block(0x11, "CANARY-MAKER", create=True).add_new(1, "LO", "CANARY-PRIVATE")

    like = read_series(write_series(tmp_path / "CANARY-FOLDER", edit))
    write_seg(tmp_path / "mask.dcm", some_mask(), like, identifiers=identifiers)
    content = (tmp_path / "mask.dcm").read_bytes()
    assert (b"CANARY-ID" in content) is identifiers
    assert (b"CANARY^NAME" in content) is identifiers
    assert b"CANARY-REST" not in content
    assert b"CANARY-MAKER" not in content
    assert b"CANARY-PRIVATE" not in content
    assert b"CANARY-FOLDER" not in content


def test_enhanced_source(tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    header = enhanced(order=[3, 1, 2, 0, 4, 5, 9, 8, 7, 6])
    header.PerFrameFunctionalGroupsSequence[0].CTPositionSequence = [Dataset()]
    header.PerFrameFunctionalGroupsSequence[0].CTPositionSequence[0].PatientComments = "CANARY"
    like = read_series(save(header, tmp_path / "enhanced.dcm"))
    write_seg(tmp_path / "mask.dcm", some_mask(), like)
    np.testing.assert_array_equal(
        read_seg(tmp_path / "mask.dcm", like=like).array, numbered(some_mask())
    )
    assert b"CANARY" not in (tmp_path / "mask.dcm").read_bytes()


def test_gap_slices_are_left_out(tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    folder = write_series(tmp_path / "s", slices=[0, 1, 2, 3, 5, 6, 7, 8, 9])
    with pytest.warns(UserWarning, match="missing"):
        like = read_series(folder, options=ReadOptions(fill_gap=True))
    write_seg(tmp_path / "mask.dcm", some_mask(), like)
    expected = numbered(some_mask())
    expected[4] = 0
    np.testing.assert_array_equal(read_seg(tmp_path / "mask.dcm", like=like).array, expected)


def overlapping(file: Path) -> None:
    """Make the second segment of the written file equal to the first where it lies."""
    written = pydicom.dcmread(file)
    written.PixelData = bytes([255]) * len(written.PixelData)
    written.save_as(file)


@pytest.mark.parametrize("case", [pytest.param(0, id="D-26-overlap")])
def test_overlapping_segments_stay_apart(source: Volume, tmp_path: Path, case: int) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    file = tmp_path / "mask.dcm"
    write_seg(file, some_mask(), source, NAMES)
    overlapping(file)
    with pytest.raises(InputError, match=r"segments that overlap.*--frame N") as caught:
        read_series(file)
    assert caught.value.option == "--frame"
    masks = read_seg_channels(file, like=source)
    assert list(masks) == [1, 2]
    assert [int(mask.any(axis=(1, 2)).sum()) for mask in masks.values()] == [4, 4]
    one = read_series(file, options=ReadOptions(frame=1))
    assert dict(one.labels) == {2: "tumour"}
    assert np.unique(one.array).tolist() == [2]
    with pytest.raises(InputError, match="no segment --frame 2; it has 2"):
        read_series(file, options=ReadOptions(frame=2))


@pytest.mark.parametrize("case", [pytest.param(0, id="D-28-other-frame-of-reference")])
def test_another_frame_of_reference_is_refused(source: Volume, tmp_path: Path, case: int) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")

    def edit(k: int, header: FileDataset) -> None:
        header.FrameOfReferenceUID = "1.2.3.999"

    write_seg(tmp_path / "mask.dcm", some_mask(), source)
    other = read_series(write_series(tmp_path / "other", edit))
    with pytest.raises(InputError, match="another FrameOfReferenceUID"):
        read_seg(tmp_path / "mask.dcm", like=other)
    with pytest.raises(InputError, match="another FrameOfReferenceUID"):
        read_seg_channels(tmp_path / "mask.dcm", like=other)


def shifted(k: int, header: FileDataset) -> None:
    header.ImagePositionPatient = [10.0, 20.0, 31.0 + STEP * k]


def coarser(k: int, header: FileDataset) -> None:
    header.PixelSpacing = [SPACING, 1.0]


def turned(k: int, header: FileDataset) -> None:
    header.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("edit", [shifted, coarser, turned])
def test_another_grid_is_refused(source: Volume, tmp_path: Path, edit: Edit) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    write_seg(tmp_path / "mask.dcm", some_mask(), source)
    other = read_series(write_series(tmp_path / "other", edit))
    with pytest.raises(InputError, match="lies on another grid"):
        read_seg(tmp_path / "mask.dcm", like=other)


def test_only_what_fits_is_written(source: Volume, tmp_path: Path) -> None:
    file, mask = tmp_path / "mask.dcm", some_mask()
    array = Volume(mask, Geometry.from_spacing(mask.shape, (3, 1, 1)))
    with pytest.raises(InputError, match=r"needs a source series.*save as \.nii\.gz"):
        write_seg(file, mask, array)
    with pytest.raises(InputError, match=r"mask has shape \(9, 8, 8\), the series \(10, 8, 8\)"):
        write_seg(file, mask[:-1], source)
    with pytest.raises(InputError, match="0 values of type uint8; 1 to 255"):
        write_seg(file, np.zeros_like(mask), source)
    with pytest.raises(InputError, match="2 values of type float64"):
        write_seg(file, mask.astype(float), source)
    with pytest.raises(InputError, match=r"cannot be written .No such file"):
        write_seg(tmp_path / "absent" / "mask.dcm", mask, source)
    assert [p.name for p in tmp_path.iterdir()] == ["series"]


def test_missing_extra_is_named(
    source: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'segkit\[dicom\]'"):
        write_seg(tmp_path / "mask.dcm", some_mask(), source)


def test_images_are_not_segmentations(source: Volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a DICOM segmentation object"):
        read_seg(tmp_path / "series" / "slice000.dcm")


def test_fractional_segments_are_refused(source: Volume, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    file = tmp_path / "mask.dcm"
    write_seg(file, some_mask(), source)
    written = pydicom.dcmread(file)
    written.SegmentationType = "FRACTIONAL"
    written.save_as(file)
    with pytest.raises(InputError, match="FRACTIONAL segments; BINARY ones are read"):
        read_seg(file)


def test_known_anatomy_is_coded(source: Volume, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    write_seg(tmp_path / "mask.dcm", some_mask(), source, {1: "left ventricle", 4: "nucleus"})
    first, second = pydicom.dcmread(tmp_path / "mask.dcm").SegmentSequence
    code = first.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("87878005", "SCT")
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
