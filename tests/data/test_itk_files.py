"""NRRD and MetaImage through `load`, held against SimpleITK's own files."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nifti_bytes import AFFINE, SHAPE, VOXELS, content, fault, write

from segkit.data.readers import count_frames, load
from segkit.data.writers import save
from segkit.errors import DataWarning, InputError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEAD = {
    "type": "int16", "dimension": "3", "space": "left-posterior-superior", "sizes": "24 20 16",
    "space directions": "(-0.8,0,0) (0,-0.8,0) (0,0,3)", "kinds": "domain domain domain",
    "endian": "little", "encoding": "raw", "space origin": "(50,40,10)",
}  # fmt: skip
META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "-1 0 0 0 -1 0 0 0 1", "Offset": "50 40 10",
    "ElementSpacing": "0.8 0.8 3", "DimSize": "24 20 16", "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}  # fmt: skip


def nrrd(path: Path, data: bytes = VOXELS.tobytes(), **changes: str | None) -> Path:
    """A file with entries replaced, or left out where None; `_` stands for a blank."""
    entries = {**HEAD, **{name.replace("_", " "): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in entries.items() if value is not None]
    path.write_bytes(("\n".join(["NRRD0004", "# note", *lines]) + "\n\n").encode() + data)
    return path


def meta(path: Path, data: bytes = VOXELS.tobytes(), **changes: str | None) -> Path:
    entries = {**META, **changes}
    entries["ElementDataFile"] = entries.pop("ElementDataFile")  # always the last line
    lines = [f"{name} = {value}" for name, value in entries.items() if value is not None]
    path.write_bytes(("\n".join(lines) + "\n").encode() + data)
    return path


def rotation() -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@fault("F-74")
def test_f74_oblique_file_equals_its_nifti_twin(name: str, packed: bool, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation() @ np.diag([0.8, 0.8, 3.0])
    affine[:3, 3] = (-50, -40, 10)
    image = SimpleITK.GetImageFromArray(VOXELS)
    image.SetSpacing([0.8, 0.8, 3.0])
    image.SetDirection((LPS[:3, :3] @ rotation()).ravel().tolist())
    image.SetOrigin((LPS @ affine)[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(tmp_path / name), packed)
    forms = {f"srow_{axis}": affine[row] for row, axis in enumerate("xyz")}
    twin = load(write(tmp_path / "twin.nii", content(qform_code=0, **forms)))
    volume = load(tmp_path / name)
    np.testing.assert_array_equal(volume.array, VOXELS)
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.geometry.affine, affine, rtol=0, atol=1e-9)
    np.testing.assert_allclose(volume.geometry.affine, twin.geometry.affine, atol=5e-6)


def test_spaces_units_byte_orders_and_skips(tmp_path: Path) -> None:
    flips = {"left-posterior-superior": (-1, -1), "RAS": (1, 1), "left-anterior-superior": (-1, 1)}
    for space, (x, y) in flips.items():
        path = nrrd(
            tmp_path / "a.nrrd",
            space=space,
            space_directions=f"({0.8 * x},0,0) (0,{0.8 * y},0) (0,0,3)",
            space_origin=f"({-50 * x},{-40 * y},10)",
        )
        np.testing.assert_allclose(load(path).geometry.affine, AFFINE)
    big = nrrd(tmp_path / "b.nrrd", VOXELS.astype(">i2").tobytes(), endian="big")
    np.testing.assert_array_equal(load(big).array, VOXELS)
    skipped = nrrd(tmp_path / "c.nrrd", bytes(9) + VOXELS.tobytes(), byte_skip="9")
    np.testing.assert_array_equal(load(skipped).array, VOXELS)
    at_end = nrrd(tmp_path / "d.nrrd", bytes(9) + VOXELS.tobytes(), byte_skip="-1")
    np.testing.assert_array_equal(load(at_end).array, VOXELS)
    metres = nrrd(tmp_path / "e.nrrd", space_units='"cm" "cm" "cm"')
    np.testing.assert_allclose(load(metres).geometry.affine[:3], 10 * AFFINE[:3])
    swapped = meta(
        tmp_path / "f.mha", VOXELS.astype(">i2").tobytes(), BinaryDataByteOrderMSB="True"
    )
    np.testing.assert_array_equal(load(swapped).array, VOXELS)


def test_sheared_nrrd_keeps_its_shear(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", space_directions="(-0.8,0,0) (0,-0.8,0) (0.9,0,3)")
    affine = load(path).geometry.affine
    assert affine[0, 2] == pytest.approx(-0.9)


Writer = Callable[..., Path]
BROKEN: list[tuple[str, Writer, str, dict[str, str | None], bytes, str]] = [
    ("F-06-nrrd", nrrd, "a.nrrd", {}, VOXELS.tobytes()[:-1], r"truncated: ends at byte .* of"),
    ("F-06-mha", meta, "a.mha", {}, VOXELS.tobytes()[:-1], "truncated: ends at byte"),
    ("F-01-nrrd", nrrd, "a.nrrd", {"encoding": "gzip"},
     gzip.compress(VOXELS.tobytes())[:-99], "the compressed stream has no end"),
    ("F-01-mha", meta, "a.mha", {"CompressedData": "True"},
     zlib.compress(VOXELS.tobytes())[:-99], "the compressed stream has no end"),
    ("F-02-nrrd", nrrd, "a.nrrd", {"encoding": "gz"},
     gzip.compress(VOXELS.tobytes())[:-8] + bytes(8), "checksum"),
    ("F-02-mha", meta, "a.mha", {"CompressedData": "True"},
     zlib.compress(VOXELS.tobytes())[:-4] + bytes(4), "checksum"),
    ("F-13-nrrd", nrrd, "a.nrrd", {"sizes": "99999 99999 99999"}, b"1234", "truncated: ends"),
    ("F-14-mha", meta, "a.mha", {"CompressedData": "True", "DimSize": "99999 99999 99999"},
     zlib.compress(VOXELS.tobytes()), "compressed bytes cannot hold"),
    ("F-59-gz", nrrd, "a.nrrd", {"encoding": "gzip", "type": "float"},
     gzip.compress(VOXELS.tobytes()), "truncated: its data end at byte 15,360 of 30,720"),
    ("F-12-nrrd", nrrd, "a.nrrd", {"sizes": "24 20 -16"}, b"", "all must be >= 1"),
    ("F-11-mha", meta, "a.mha", {"DimSize": "24 0 16"}, b"", "all must be >= 1"),
    ("F-16-nrrd", nrrd, "a.nrrd", {"dimension": "x"}, b"", "expected numbers"),
    ("F-16-mha", meta, "a.mha", {"NDims": "7"}, b"", "NDims is 7, expected 2, 3 or 4"),
    ("F-19-nrrd", nrrd, "a.nrrd", {"type": "block"}, b"", "block voxels not supported"),
    ("F-19-mha", meta, "a.mha", {"ElementType": "MET_STRING"}, b"", "not supported"),
    ("endian", nrrd, "a.nrrd", {"endian": None}, b"", "NRRD header without 'endian'"),
    ("no-type", meta, "a.mha", {"ElementType": None}, b"", "without elementtype"),
    ("encoding", nrrd, "a.nrrd", {"encoding": "hex"}, b"", "save it as raw or gzip"),
    ("text", meta, "a.mha", {"BinaryData": "False"}, b"", "its voxels are text"),
    ("F-39-nrrd", nrrd, "a.nrrd", {"space directions": "(1,0,0) (1,0,0) (0,0,1)"},
     VOXELS.tobytes(), "its frame is singular"),
    ("directions", nrrd, "a.nrrd", {"space directions": "(1,0,0) (0,1,0)"}, VOXELS.tobytes(),
     "has 2 space directions for 3 axes"),
    ("spacings", nrrd, "a.nrrd", {"space directions": None, "spacings": "1 1"}, VOXELS.tobytes(),
     "expected 3 numbers"),
    ("F-40-mha", meta, "a.mha", {"Offset": "nan 0 0"}, VOXELS.tobytes(), "its frame holds NaN"),
    ("F-39-mha", meta, "a.mha", {"TransformMatrix": "1 0 0 0 1 0"}, VOXELS.tobytes(),
     "expected 9 numbers"),
    ("F-75-up", nrrd, "a.nhdr", {"data file": "../secret.raw"}, b"", "outside its folder"),
    ("F-75-absolute", nrrd, "a.nhdr", {"data file": "/etc/hostname"}, b"", "outside its folder"),
    ("F-75-windows", meta, "a.mhd", {"ElementDataFile": "C:\\secret.raw"}, b"", "outside its"),
    ("F-75-mhd", meta, "a.mhd", {"ElementDataFile": "x/../../secret.raw"}, b"", "outside its"),
    ("list", meta, "a.mhd", {"ElementDataFile": "LIST"}, b"a.raw\nb.raw", "over several files"),
    ("pattern", nrrd, "a.nhdr", {"data file": "a%03d.raw 1 9 1"}, b"", "over several files"),
    ("gone", meta, "a.mhd", {"ElementDataFile": "gone.raw"}, b"", r"gone\.raw: does not exist"),
    ("line-skip", nrrd, "a.nrrd", {"line skip": "2"}, b"", "which is not supported"),
    ("header-size", meta, "a.mha", {"HeaderSize": "-7"}, b"", "HeaderSize is -7"),
    ("object", meta, "a.mha", {"ObjectType": "Mesh"}, b"", "is a MetaIO Mesh"),
    ("axes", nrrd, "a.nrrd", {"kinds": "domain list domain", "space directions": None}, b"",
     "2 spatial and 1 other axes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("writer", "name", "changes", "data", "cause"), [e[1:] for e in BROKEN],
    ids=[e[0] for e in BROKEN],
)  # fmt: skip
def test_unusable_file_is_refused(
    writer: Writer,
    name: str,
    changes: dict[str, str | None],
    data: bytes,
    cause: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    path = writer(tmp_path / "in" / name, data, **changes)
    with pytest.raises(InputError, match=cause) as caught:
        load(path)
    assert caught.value.fix
    assert str(tmp_path / "in") in str(caught.value)


def test_files_cut_inside_the_header_or_of_another_kind(tmp_path: Path) -> None:
    for writer, name in ((nrrd, "a.nrrd"), (meta, "a.mha")):
        data = writer(tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:80])
        with pytest.raises(InputError, match="truncated: ends inside its header"):
            load(tmp_path / name)
    for name in ("b.nrrd", "b.mha"):
        (tmp_path / name).write_bytes(b"hello world, this is text\n" * 9)
        with pytest.raises(InputError, match=r"not a NRRD file|header with the line"):
            load(tmp_path / name)
    (tmp_path / "c.nrrd").write_bytes(b"NRRD0004\nnonsense\n\n")
    with pytest.raises(InputError, match="NRRD header with the line 'nonsense'"):
        load(tmp_path / "c.nrrd")
    (tmp_path / "d.nrrd").write_bytes(b"NRRD9999\ntype: uchar\n\n")
    with pytest.raises(InputError, match="not a NRRD file: starts with 'NRRD9999'"):
        load(tmp_path / "d.nrrd")


@pytest.mark.parametrize("writer", [nrrd, meta])
@fault("F-43", "F-23")
def test_f43_f23_unknown_frames(writer: Writer, tmp_path: Path) -> None:
    is_nrrd = writer is nrrd
    no_frame: dict[str, str | None] = (
        {"space": None, "space directions": None, "space origin": None, "spacings": "0.8 0.8 3"}
        if is_nrrd
        else {"TransformMatrix": None, "Offset": None}
    )
    path = writer(tmp_path / ("a.nrrd" if is_nrrd else "a.mha"), **no_frame)
    with pytest.warns(DataWarning, match="unknown frame") as caught:
        volume = load(path)
    assert len(caught) == 1
    assert not volume.geometry.is_known
    assert volume.geometry.spacing_mm == (3.0, 0.8, 0.8)

    no_size = {**no_frame, "spacings" if is_nrrd else "ElementSpacing": None}
    path = writer(path, **no_size)
    with pytest.raises(InputError, match="no frame, and no voxel size") as refused:
        load(path)
    assert refused.value.option == "--spacing"
    with pytest.warns(DataWarning, match="as asked"):
        assert load(path, spacing=(1, 2, 3)).geometry.spacing_mm == (3, 2, 1)
    with pytest.raises(InputError, match="drop --spacing"):
        load(writer(path), spacing=(1, 2, 3))


def test_trailing_bytes_and_foreign_units_are_noted(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="7 bytes behind the voxels ignored"):
        load(nrrd(tmp_path / "a.nrrd", VOXELS.tobytes() + b"garbage"))
    with pytest.warns(DataWarning, match="7 bytes behind the compressed stream ignored"):
        load(nrrd(tmp_path / "b.nrrd", gzip.compress(VOXELS.tobytes()) + b"garbage",
                  encoding="gzip"))  # fmt: skip
    with pytest.warns(DataWarning, match="unknown units of length"):
        load(nrrd(tmp_path / "c.nrrd", space_units='"px" "px" "px"'))


@fault("F-25")
def test_f25_fourth_axis_in_front_and_at_the_end(tmp_path: Path) -> None:
    series = np.stack([VOXELS, VOXELS + 1, VOXELS + 2])
    last = nrrd(
        tmp_path / "a.nrrd", series.tobytes(), dimension="4", sizes="24 20 16 3",
        kinds="domain domain domain list",
        space_directions="(-0.8,0,0) (0,-0.8,0) (0,0,3) none",
    )  # fmt: skip
    first = nrrd(
        tmp_path / "b.nrrd", np.moveaxis(series, 0, -1).tobytes(), dimension="4",
        sizes="3 24 20 16", kinds="list domain domain domain",
        space_directions="none (-0.8,0,0) (0,-0.8,0) (0,0,3)",
    )  # fmt: skip
    meta_4d = meta(
        tmp_path / "c.mha", series.tobytes(), NDims="4", DimSize="24 20 16 3",
        TransformMatrix="-1 0 0 0 0 -1 0 0 0 0 1 0 0 0 0 1", Offset="50 40 10 0",
        ElementSpacing="0.8 0.8 3 1",
    )  # fmt: skip
    for path in (last, first, meta_4d):
        assert count_frames(path) == 3
        with pytest.raises(InputError, match="has 3 frames") as caught:
            load(path)
        assert caught.value.option == "--frame"
        volume = load(path, frame=2)
        np.testing.assert_array_equal(volume.array, VOXELS + 2)
        np.testing.assert_allclose(volume.geometry.affine, AFFINE)


@fault("F-30")
def test_f30_colour_voxels(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    first = nrrd(
        tmp_path / "a.nrrd", colours.tobytes(), type="uint8", dimension="4", sizes="3 24 20 16",
        kinds="RGB-color domain domain domain",
        space_directions="none (-0.8,0,0) (0,-0.8,0) (0,0,3)",
    )  # fmt: skip
    second = meta(
        tmp_path / "a.mha", colours.tobytes(), ElementType="MET_UCHAR", ElementNumberOfChannels="3"
    )
    for path in (first, second):
        with pytest.raises(InputError, match="colour voxels") as caught:
            load(path)
        assert caught.value.option == "--luminance"
        with pytest.warns(DataWarning, match="luminance"):
            volume = load(path, luminance=True)
        expected = colours @ np.array([0.299, 0.587, 0.114])
        assert np.abs(volume.array - expected).max() < 0.51


def test_flat_files_are_one_slice(tmp_path: Path) -> None:
    one = VOXELS[0].tobytes()
    flat = nrrd(
        tmp_path / "a.nrrd", one, dimension="2", sizes="24 20", kinds="domain domain", space=None,
        space_directions=None, space_origin=None, spacings="0.8 0.8",
    )  # fmt: skip
    second = meta(
        tmp_path / "a.mha", one, NDims="2", DimSize="24 20", ElementSpacing="0.8 0.8",
        TransformMatrix="1 0 0 1", Offset="0 0",
    )  # fmt: skip
    for path in (flat, second):
        with pytest.warns(DataWarning, match="unknown frame"):
            np.testing.assert_array_equal(load(path).array, VOXELS[:1])


def test_segments_name_the_labels(tmp_path: Path) -> None:
    volume = load(nrrd(tmp_path / "a.nrrd"))
    mask = (VOXELS > 0).astype(np.uint8) * 2
    save(tmp_path / "b.seg.nrrd", mask, volume, labels={2: "left kidney"})
    assert dict(load(tmp_path / "b.seg.nrrd").labels) == {2: "left kidney"}
    text = (tmp_path / "b.seg.nrrd").read_bytes()
    (tmp_path / "c.seg.nrrd").write_bytes(text.replace(b"LabelValue:=2", b"LabelValue:=x"))
    with pytest.raises(InputError, match="segment 'left kidney' has no label value"):
        load(tmp_path / "c.seg.nrrd")
