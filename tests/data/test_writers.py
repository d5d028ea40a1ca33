import gzip
import itertools
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nifti_bytes import AFFINE, VOXELS, content, fault, write

from segkit.data.readers import load
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import DataWarning, InputError
from segkit.geometry import Geometry

FORMATS = ["m.nii", "m.nii.gz", "m.nrrd", "m.seg.nrrd", "m.mha"]
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]
SHAPE = (3, 4, 5)
MASK = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.int64)


def oblique(shear: float = 0.0) -> Geometry:
    rotation, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.6, 0.7, 4.0])
    affine[:3, 2] += shear * affine[:3, 0]
    affine[:3, 3] = (-120.5, 33.25, 801.125)
    return Geometry(SHAPE, affine)


def volume(geometry: Geometry) -> Volume:
    return Volume(np.zeros(geometry.shape, np.int16), geometry)


@pytest.mark.parametrize("shear", [0.0, 0.4])
@pytest.mark.parametrize("name", FORMATS)
def test_mask_comes_back_on_the_same_lattice_in_all_48_orientations(
    name: str, shear: float, tmp_path: Path
) -> None:
    for codes in ORIENTATIONS:
        change, geometry = oblique(shear).reoriented(codes)
        mask = np.ascontiguousarray(change.apply(MASK))
        save(tmp_path / name, mask, volume(geometry))
        back = load(tmp_path / name)
        np.testing.assert_array_equal(back.array, mask)
        assert back.array.dtype == np.uint8
        # NIfTI-1 stores float32
        tolerance = 1e-6 * np.abs(geometry.affine).max() if ".nii" in name else 1e-9
        assert np.abs(back.geometry.affine - geometry.affine).max() < tolerance
        assert back.geometry.orientation == codes


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 3), (4, 2), (0, 0)])
@pytest.mark.parametrize("unit", [0, 2, 3])
def test_nifti_frame_is_copied_as_stored(
    version: int, codes: tuple[int, int], unit: int, tmp_path: Path
) -> None:
    source = content(version=version, sform_code=codes[0], qform_code=codes[1], xyzt_units=unit)
    with warnings.catch_warnings():  # of tiny voxels and of the unknown frame
        warnings.simplefilter("ignore", DataWarning)
        image = load(write(tmp_path / "a.nii", source))
        save(tmp_path / "m.nii.gz", VOXELS > 0, image)
        mask = load(tmp_path / "m.nii.gz")
    before, after = (nib.load(tmp_path / name).header for name in ("a.nii", "m.nii.gz"))
    for name in ("sform_code", "qform_code", "xyzt_units", "sizeof_hdr", "quatern_b", "qoffset_x"):
        assert after[name] == before[name]
    for name in ("srow_x", "srow_y", "srow_z", "pixdim"):
        np.testing.assert_array_equal(after[name][:4], before[name][:4])
    np.testing.assert_array_equal(mask.geometry.affine, image.geometry.affine)
    assert mask.geometry.is_known == image.geometry.is_known == (codes != (0, 0))


@pytest.mark.parametrize("name", FORMATS)
def test_other_tools_read_the_same_mask(name: str, tmp_path: Path) -> None:
    geometry = oblique()
    save(tmp_path / name, MASK, volume(geometry), labels={1: "liver", 2: "a & <b>"})
    image = SimpleITK.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), MASK)
    for index in ((0, 0, 0), (2, 1, 4)):
        lps = geometry.to_world_mm(np.array([index], float), "lps")[0]
        found = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(found, lps, atol=1e-4)
    if ".nii" in name:
        twin = nib.load(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(twin.dataobj).T, MASK)
        np.testing.assert_allclose(twin.get_qform(), geometry.affine, atol=1e-4)
        assert "liver" in str(twin.header.extensions[0].get_content())
        assert dict(load(tmp_path / name).labels) == {1: "liver", 2: "a & <b>"}
    if name.endswith("seg.nrrd"):
        assert image.GetMetaData("Segment0_Name") == "liver"
        assert image.GetMetaData("Segment2_Name") == "label 3"
        assert image.GetMetaData("Segment0_Extent").split() == [
            str(edge)
            for axis in (2, 1, 0)
            for edge in (np.nonzero(MASK == 1)[axis].min(), np.nonzero(MASK == 1)[axis].max())
        ]


def test_unknown_frame_stays_unknown(tmp_path: Path) -> None:
    geometry = Geometry.from_spacing(SHAPE, (3.0, 0.8, 0.7), is_known=False)
    for name in FORMATS:
        save(tmp_path / name, MASK, volume(geometry))
        with pytest.warns(DataWarning, match="unknown frame"):
            back = load(tmp_path / name)
        assert not back.geometry.is_known
        assert back.geometry.spacing_mm == pytest.approx((3.0, 0.8, 0.7))


def test_frame_that_no_longer_fits_is_replaced(tmp_path: Path) -> None:
    image = load(write(tmp_path / "a.nii", content()))
    moved = AFFINE.copy()
    moved[:3, 3] += 5
    other = Volume(image.array, Geometry(image.array.shape, moved), header=image.header)
    save(tmp_path / "m.nii", VOXELS > 0, other)
    np.testing.assert_allclose(load(tmp_path / "m.nii").geometry.affine, moved, atol=1e-5)


def test_what_the_reader_had_to_ignore_is_not_repeated(tmp_path: Path) -> None:
    source = content(pixdim_1=float("nan"))
    with pytest.warns(DataWarning, match="pixdim"):
        image = load(write(tmp_path / "a.nii", source))
    save(tmp_path / "m.nii", VOXELS > 0, image)
    np.testing.assert_allclose(load(tmp_path / "m.nii").geometry.affine, AFFINE, atol=1e-6)


def test_spacing_given_by_the_user_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", content(pixdim=0, sform_code=0, qform_code=0))
    with pytest.warns(DataWarning, match="as asked"):
        image = load(path, spacing=(0.7, 0.8, 3))
    save(tmp_path / "m.nii.gz", VOXELS > 0, image)
    assert load(tmp_path / "m.nii.gz").geometry.spacing_mm == pytest.approx((3, 0.8, 0.7))


@pytest.mark.parametrize("folder", [False, True])
@fault("V-04", "V-05")
def test_v04_v05_no_text_of_the_source_reaches_the_output(folder: bool, tmp_path: Path) -> None:
    canary = b"DOE^JANE"
    source = tmp_path / "DOE^JANE" if folder else tmp_path
    source.mkdir(exist_ok=True)
    image = nib.Nifti1Image(VOXELS.T, AFFINE)
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = canary
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, canary * 4))
    path = source / ("DOE^JANE.nii" if folder else "a.nii")
    image.to_filename(path)
    assert path.read_bytes().count(canary) >= 8
    like = load(path)
    for name in FORMATS:
        save(tmp_path / name, VOXELS > 0, like, labels={1: "liver"})
        data = (tmp_path / name).read_bytes()
        assert canary not in data
        assert canary not in (gzip.decompress(data) if name.endswith("gz") else data)
        assert b"m.nii" not in data
    assert b"DOE" not in (tmp_path / "m.seg.nrrd").read_bytes()


@fault("V-01")
def test_v01_tiff_and_png_carry_no_metadata(tmp_path: Path) -> None:
    like = Picture(np.zeros((4, 5), np.uint8), tmp_path / "DOE^JANE.png")
    for name in ("m.png", "m.tif"):
        save(tmp_path / name, np.ones((4, 5), bool), like)
        data = (tmp_path / name).read_bytes()
        assert b"DOE" not in data
        assert b"tifffile" not in data


def test_equal_masks_give_equal_bytes(tmp_path: Path) -> None:
    for name in FORMATS:
        save(tmp_path / name, MASK, volume(oblique()))
        first = (tmp_path / name).read_bytes()
        save(tmp_path / name, MASK, volume(oblique()))
        assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize(
    ("largest", "dtype"), [(1, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4")]
)
@fault("F-73")
def test_f73_smallest_type_is_written(largest: int, dtype: str, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.int64)
    mask[1, 2, 3] = largest
    for name in FORMATS[:3]:
        save(tmp_path / name, mask, volume(oblique()))
        back = load(tmp_path / name)
        assert back.array.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(back.array, mask)


def test_pictures_keep_label_values(tmp_path: Path) -> None:
    like = Picture(np.zeros((6, 7, 3), np.uint8))
    for largest in (1, 200, 60000):
        mask = np.zeros((6, 7), np.int32)
        mask[2, 3] = largest
        for name in ("m.png", "m.tif"):
            save(tmp_path / name, mask, like)
            np.testing.assert_array_equal(load(tmp_path / name).array, mask)
    with pytest.raises(InputError, match="PNG holds values up to 65,535"):
        save(tmp_path / "large.png", mask + 65536, like)
    assert not (tmp_path / "large.png").exists()
    one = volume(Geometry.from_spacing((1, 4, 5), (1, 1, 1)))
    save(tmp_path / "one.png", np.ones((1, 4, 5), bool), one)
    assert load(tmp_path / "one.png").array.shape == (4, 5)


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("m.nii", MASK[1:], r"the mask has the shape \(2, 4, 5\), its image \(3, 4, 5\)"),
        ("m.nii", MASK - 1, "holds values from -1 to 2 of type int64"),
        ("m.nii", MASK + 0.5, "write labels, not probabilities"),
        ("m.nii", np.full(SHAPE, np.nan), "expected whole numbers"),
        ("m.png", MASK, r"suffix '\.png' does not fit a mask of shape \(3, 4, 5\)"),
        ("m.mhd", MASK, r"use one of \.nii, \.nii\.gz, \.seg\.nrrd"),
        ("m", MASK, "suffix ''"),
        ("gone/m.nii", MASK, "cannot be written"),
    ],
)
def test_unusable_masks_and_names_are_refused(
    name: str, mask: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        save(tmp_path / name, mask, volume(oblique()))
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
@fault("X4")
def test_x4_failure_leaves_the_old_file_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / name, MASK, volume(oblique()))
    before = (tmp_path / name).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segkit.data.atomic.os.fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left") as caught:
        save(tmp_path / name, MASK * 0, volume(oblique()))
    assert caught.value.code == "not_writable"
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_whole_floats_and_bools_are_labels(tmp_path: Path) -> None:
    for mask in (MASK.astype(np.float32), MASK > 0):
        save(tmp_path / "m.nii", mask, volume(oblique()))
        np.testing.assert_array_equal(load(tmp_path / "m.nii").array, mask)
