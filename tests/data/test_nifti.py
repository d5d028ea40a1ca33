"""Unusual NIfTI files through `load`: exact results, single warnings, options that decide."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nifti_bytes import (
    AFFINE,
    HEADER_BYTES,
    INF,
    NAN,
    NO_FORMS,
    SHAPE,
    SHEARED,
    VOXELS,
    Make,
    changed,
    content,
    fault,
    header,
    packed,
    plain,
    raw,
    sform,
    sform_with,
    voxels,
    write,
)

from segkit.data.readers import load
from segkit.errors import DataWarning, InputError

WARNINGS: list[tuple[str, Make, str]] = [
    ("F-05", raw("a.nii.gz", lambda: bytes(content())), "not compressed"),
    ("F-05-reverse", raw("a.nii", packed), "compressed although"),
    ("F-07", raw("a.nii", lambda: bytes(content()) + bytes(4096)), "4,096 bytes behind"),
    ("F-07-gz", raw("a.nii.gz", lambda: gzip.compress(bytes(content()) + bytes(99))), "99 bytes"),
    ("F-20", plain(bitpix=64), "bitpix is 64"),
    ("F-21", plain(scl_slope=NAN), "scl_slope is nan"),
    ("F-38", plain(qform_code=0, **SHEARED), "voxel size is 0.8 x 0.8 x 3.132 by the sform"),
    ("F-54-near", plain(sform_code=2, qoffset_x=-49.99), "apart; sform used"),
    ("F-57", plain(pixdim_1=NAN), "pixdim is nan x 0.8 x 3; sform used"),
    ("F-57-qform-off", plain(pixdim_1=NAN, qform_code=0), "pixdim is nan"),
    ("F-58-sform", plain(quatern_b=3), "is no rotation; sform used"),
    ("F-39-qform", plain(**sform_with({(2, 2): 0, (2, 3): 0})), "sform is singular.*; qform used"),
    ("F-64", plain(scl_slope=INF), "scl_slope is inf"),
    ("F-68", raw("a.nii.gz", lambda: packed() + b"garbage"), "7 bytes behind the compressed"),
    ("F-44", plain(xyzt_units=3), "unusual voxel size 0.0008 x 0.0008 x 0.003 mm"),
    ("F-53", plain(xyzt_units=1), "unusual voxel size 800 x 800 x 3000 mm"),
    ("F-52-unknown", plain(xyzt_units=7), "unknown unit of length 7"),
    ("F-43", plain(**NO_FORMS), "unknown frame"),
    ("F-47", plain("a.nii", vox_offset=352), "damaged header extension skipped"),
]


@pytest.mark.parametrize(("make", "fact"), [e[1:] for e in WARNINGS], ids=[e[0] for e in WARNINGS])
def test_remarkable_file_loads_exactly_with_one_warning(
    make: Make, fact: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = make(tmp_path)
    if "F-47" in request.node.callspec.id:  # a 2 GB extension in the 16 bytes before the voxels
        flag_and_size = b"\x01\0\0\0" + (2**31 - 1).to_bytes(4, "little") + bytes(12)
        record = header()
        record["vox_offset"] = 368
        path.write_bytes(record.tobytes() + flag_and_size + VOXELS.tobytes())
    with pytest.warns(DataWarning, match=fact) as caught:
        volume = load(path)
    assert len(caught) == 1
    assert path.name in str(caught[0].message)
    assert len(volume.notes) == 1
    np.testing.assert_array_equal(volume.array, VOXELS)


ALLOWED: list[tuple[str, Make, str, dict[str, Any]]] = [
    ("F-08", voxels(changed("f4", NAN)), "--nan", {"nan": -7.0}),
    ("F-09", voxels(changed("f4", INF)), "--nan", {"nan": -7.0}),
    ("F-23", plain(pixdim=0, **NO_FORMS), "--spacing", {"spacing": (0.8, 0.8, 3.0)}),
    ("F-24", plain(pixdim=-1, **NO_FORMS), "--spacing", {"spacing": (0.8, 0.8, 3.0)}),
    ("F-31", voxels(VOXELS + np.complex64(3j)), "--complex", {"complex_part": "real"}),
    ("F-41", plain(qoffset_x=-30), "--geometry", {"geometry": "sform"}),
    ("F-41-qform", plain(qoffset_x=-30), "--geometry", {"geometry": "qform"}),
    ("F-42", plain(**sform_with({(0, 0): -0.8})), "--geometry", {"geometry": "qform"}),
    ("F-54", plain(sform_code=4, qoffset_x=-30), "--geometry", {"geometry": "sform"}),
    ("F-55", plain(pixdim_3=3.132, **SHEARED), "--geometry", {"geometry": "sform"}),
    ("F-56", plain(pixdim_1=1e6, qform_code=0), "--geometry", {"geometry": "sform"}),
]


@pytest.mark.parametrize(
    ("make", "option", "choice"), [e[1:] for e in ALLOWED], ids=[e[0] for e in ALLOWED]
)
def test_ambiguous_file_is_refused_until_its_option_is_given(
    make: Make, option: str, choice: dict[str, Any], tmp_path: Path
) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=path.name) as caught:
        load(path)
    assert caught.value.option == option
    assert option in caught.value.fix
    with pytest.warns(DataWarning) as warned:
        volume = load(path, **choice)
    assert len(warned) == 1
    wrong = volume.array != VOXELS
    assert wrong.sum() == (1 if option == "--nan" else 0)
    assert (volume.array[wrong] == -7).all()


@fault("F-56")
def test_f56_with_both_forms_names_both_facts_when_one_is_chosen(tmp_path: Path) -> None:
    path = plain(pixdim_1=1e6)(tmp_path)
    with pytest.warns(DataWarning) as warned:
        load(path, geometry="sform")
    assert [len(warned), sum("pixdim" in str(w.message) for w in warned)] == [2, 1]


@fault("F-25")
def test_f25_time_series_needs_a_frame_and_reads_exactly_it(tmp_path: Path) -> None:
    series = np.stack([VOXELS + number for number in range(5)])
    for name in ("a.nii", "a.nii.gz"):
        path = write(tmp_path / name, content(series))
        with pytest.raises(InputError, match=r"has 5 frames.*--frame 0 to 4") as caught:
            load(path)
        assert caught.value.option == "--frame"
        for number in (0, 3, 4):
            np.testing.assert_array_equal(load(path, frame=number).array, VOXELS + number)
        with pytest.raises(InputError, match="has no frame 5; allowed: 0 to 4"):
            load(path, frame=5)


@fault("F-30")
def test_f30_colour_needs_luminance(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    record = header()
    record["datatype"], record["bitpix"] = 128, 24
    path = write(tmp_path / "a.nii", record.tobytes() + bytes(4) + colours.tobytes())
    with pytest.raises(InputError, match="colour voxels") as caught:
        load(path)
    assert caught.value.option == "--luminance"
    with pytest.warns(DataWarning, match="luminance"):
        volume = load(path, luminance=True)
    expected = colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(volume.array - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("part", ["magnitude", "phase", "real"])
@fault("F-31")
def test_f31_complex_parts(part: str, tmp_path: Path) -> None:
    values = (VOXELS * (1 + 2j)).astype(np.complex64)
    path = write(tmp_path / "a.nii", content(values))
    with pytest.warns(DataWarning, match=f"{part} of complex"):
        volume = load(path, complex_part=part)
    expected = {"magnitude": np.abs, "phase": np.angle, "real": np.real}[part](values)
    np.testing.assert_array_equal(volume.array, expected)


def rotated(angle: float) -> dict[str, Any]:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return {**sform(turn @ AFFINE), "qform_code": 0}


EXACT: list[tuple[str, Make]] = [
    ("F-00", plain()),
    ("F-00-gz", plain("a.nii.gz")),
    ("F-22", plain(scl_slope=0)),
    ("F-26", plain(dim=[4, 24, 20, 16, 1, 1, 1, 1])),
    ("F-32", voxels(np.abs(VOXELS).astype("u8"))),
    ("F-35", plain(**sform_with({(0, 0): 0.3, (1, 1): 0.3, (2, 2): 8}), pixdim=[1, 0.3, 0.3, 8, 1,
                   1, 1, 1])),
    ("F-36", plain(qform_code=0, **sform_with({(0, 0): -0.8}))),
    ("F-37", plain(**rotated(0.4))),
    ("F-38-equal", plain(qform_code=0, pixdim_3=np.hypot(3.0, 0.9), **SHEARED)),
    ("F-50", plain("a; $(touch x) ünï çode.nii.gz")),
    ("F-52", plain(xyzt_units=0)),
    ("F-67", raw("a.nii.gz", lambda: gzip.compress(bytes(content()[:5000]))
                 + gzip.compress(bytes(content()[5000:])))),
    ("F-69", plain(version=2)),
    ("F-69-gz", plain("a.nii.gz", version=2)),
    ("F-71", plain(order=">")),
    ("F-71-gz-nifti-2", plain("a.nii.gz", order=">", version=2)),
    ("F-73", voxels(VOXELS.astype("i8"))),
    ("F-54-equal", plain(sform_code=3, qform_code=2)),
]  # fmt: skip


@pytest.mark.parametrize("make", [e[1] for e in EXACT], ids=[e[0] for e in EXACT])
def test_good_file_loads_bit_exactly_and_silently(
    make: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = make(tmp_path)
    volume = load(path)  # warnings are errors here
    expected = np.abs(VOXELS) if request.node.callspec.id == "F-32" else VOXELS
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.array.dtype.isnative
    assert volume.notes == ()
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    order = "<" if data[0] in (92, 28) else ">"
    record = np.frombuffer(data[:540], header(1 if 92 in data[:4] else 2, order=order).dtype, 1)[0]
    stored = np.stack([record[f"srow_{axis}"] for axis in "xyz"])
    np.testing.assert_allclose(volume.geometry.affine[:3], stored, rtol=0, atol=1e-6)


@fault("F-27", "F-34")
def test_f27_f34_flat_files_are_one_slice(tmp_path: Path) -> None:
    for number, array in enumerate((VOXELS[0], VOXELS[:1])):
        path = write(tmp_path / f"{number}.nii", content(array))
        np.testing.assert_array_equal(load(path).array, VOXELS[:1])


@fault("F-32")
def test_f32_integers_that_float32_rounds_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", content(changed("u8", 2**24 + 1, count=3)))
    with pytest.warns(DataWarning, match="3 voxels of uint64 are rounded in float32"):
        assert load(path).array.reshape(-1)[0] == 2**24 + 1


@fault("F-43")
def test_f43_unknown_frame_forbids_millimetres(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", content(**NO_FORMS))
    with pytest.warns(DataWarning, match="unknown frame"):
        volume = load(path)
    assert not volume.geometry.is_known
    with pytest.raises(InputError, match="carries no frame"):
        volume.geometry.to_world_mm(np.zeros((1, 3)))


@fault("F-44", "F-53")
def test_f44_f53_units_are_honoured(tmp_path: Path) -> None:
    for unit, factor in ((3, 1e-3), (1, 1e3)):
        path = write(tmp_path / "a.nii", content(xyzt_units=unit))
        with pytest.warns(DataWarning):
            volume = load(path)
        np.testing.assert_allclose(volume.geometry.affine[:3], AFFINE[:3] * factor, rtol=1e-6)


@fault("F-66")
def test_f66_scaling_is_applied_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", content(scl_slope=2.5, scl_inter=-1024))
    volume = load(path)
    np.testing.assert_array_equal(volume.array, (VOXELS * 2.5 - 1024).astype(np.float32))


@fault("F-70")
def test_f70_pair_and_its_missing_partner(tmp_path: Path) -> None:
    data = content(magic=b"ni1", vox_offset=0)
    (tmp_path / "a.hdr").write_bytes(data[:348])
    (tmp_path / "a.img").write_bytes(data[HEADER_BYTES:])
    for name in ("a.hdr", "a.img"):
        np.testing.assert_array_equal(load(tmp_path / name).array, VOXELS)
    (tmp_path / "a.img").unlink()
    with pytest.raises(InputError, match=r"a\.hdr: its partner a\.img is missing"):
        load(tmp_path / "a.hdr")
    (tmp_path / "b.nii").write_bytes(data)
    with pytest.raises(InputError, match=r"header of a \.hdr/\.img pair"):
        load(tmp_path / "b.nii")
