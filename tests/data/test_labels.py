import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_builder import write_series
from nifti_bytes import AFFINE, NO_FORMS, SHAPE, VOXELS, content, fault, sform_with, write
from PIL import Image

from segkit.data.label_options import LabelOptions
from segkit.data.labels import check_names, count_values, ignored_value, read_labels
from segkit.data.options import ReadOptions
from segkit.data.readers import load
from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.errors import DataWarning, InputError
from segkit.geometry import Geometry

TABLE = {1: "liver", 2: "tumour"}
RNG = np.random.default_rng(0)
MAP = RNG.integers(0, 3, SHAPE).astype(np.int16)
IMAGE = Volume(VOXELS, Geometry(SHAPE, AFFINE))
FLAT = RNG.integers(0, 3, (12, 15)).astype(np.uint8)
PICTURE = Picture(np.zeros((12, 15, 3), np.uint8))


def nifti(path: Path, array: np.ndarray = MAP, **fields: object) -> Path:
    return write(path / "label.nii.gz", content(array, **fields))


def png(path: Path, array: np.ndarray, name: str = "label.png") -> Path:
    Image.fromarray(array).save(path / name)
    return path / name


def with_value(value: float, count: int = 3, dtype: str = "f4") -> np.ndarray:
    array = MAP.astype(dtype)
    array.reshape(-1)[:count] = value
    return array


def test_plain_map_is_returned_exactly(tmp_path: Path) -> None:
    for array in (MAP, MAP.astype("f4"), MAP.astype("i8"), MAP.astype("u1")):
        labels = read_labels(nifti(tmp_path, array), IMAGE, TABLE)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, MAP)
    np.testing.assert_array_equal(read_labels(png(tmp_path, FLAT), PICTURE, TABLE), FLAT)


Case = tuple[str, Callable[[Path], Path], str]
REFUSED: list[Case] = [
    ("L-01", lambda p: nifti(p, MAP[1:]),
     r"labels have the shape \(15, 20, 24\), the image \(16, 20, 24\)"),
    ("L-03", lambda p: nifti(p, with_value(7, dtype="i2")),
     r"undeclared label values: 7 \(3 voxels\); declared are 1 liver, 2 tumour"),
    ("L-04-far", lambda p: nifti(p, with_value(1.01)), "3 labels are no whole numbers"),
    ("L-05", lambda p: nifti(p, with_value(-1, dtype="i2")),
     r"negative label values: -1 \(3 voxels\)"),
    ("L-06-large", lambda p: nifti(p, with_value(65536, dtype="i4")),
     r"label values above 65,535: 65536 \(3 voxels\)"),
    ("L-07", lambda p: write(p / "label.nii", b""), "empty file"),
    ("L-07-zero", lambda p: nifti(p, dim_2=0), "all must be >= 1"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "cause"), [e[1:] for e in REFUSED], ids=[e[0] for e in REFUSED])
def test_unusable_labels_are_refused(
    make: Callable[[Path], Path], cause: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=cause) as caught:
        read_labels(path, IMAGE, TABLE)
    assert path.name in str(caught.value)
    assert caught.value.fix


@fault("L-01")
def test_l01_picture_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shape \(11, 15\), the image \(12, 15\)"):
        read_labels(png(tmp_path, FLAT[1:]), PICTURE, TABLE)


@pytest.mark.parametrize("voxels", [0.002, 0.4, 3.0])
@fault("L-02")
def test_l02_other_lattice_needs_resampling(voxels: float, tmp_path: Path) -> None:
    path = nifti(tmp_path, **sform_with({(0, 3): -50 + 0.8 * voxels}), qform_code=0)
    with pytest.raises(InputError, match=r"labels lie .* voxels off the image") as caught:
        read_labels(path, IMAGE, TABLE)
    assert caught.value.option == "--resample-labels"
    with pytest.warns(DataWarning, match=f"labels lie {voxels:.3g}.*resampled") as warned:
        labels = read_labels(path, IMAGE, TABLE, LabelOptions(resample=True))
    assert len(warned) == 1
    step = round(voxels)
    np.testing.assert_array_equal(labels[..., step:], MAP[..., : 24 - step])
    assert not labels[..., :step].any()


@fault("L-02")
def test_l02_equal_and_unknown_lattices_pass(tmp_path: Path) -> None:
    path = nifti(tmp_path, **sform_with({(0, 3): -50 + 0.8 * 0.0005}), qform_code=0)
    np.testing.assert_array_equal(read_labels(path, IMAGE, TABLE), MAP)
    with pytest.warns(DataWarning, match="unknown frame"):
        labels = read_labels(nifti(tmp_path, **NO_FORMS), IMAGE, TABLE)
    np.testing.assert_array_equal(labels, MAP)


@fault("L-02")
def test_l02_resampling_follows_oblique_lattices(tmp_path: Path) -> None:
    change, turned = IMAGE.geometry.reoriented("PIR")
    moved = Volume(np.ascontiguousarray(change.apply(VOXELS)), turned)
    save(tmp_path / "m.nrrd", np.ascontiguousarray(change.apply(MAP)), moved)
    with pytest.raises(InputError, match="labels have the shape"):
        read_labels(tmp_path / "m.nrrd", IMAGE, TABLE)
    cube = Geometry.from_spacing((5, 5, 5), (1, 1, 1))
    change, turned = cube.reoriented("PIR")
    values = RNG.integers(0, 3, (5, 5, 5)).astype(np.uint8)
    mirrored = Volume(values, turned)
    save(tmp_path / "c.nrrd", np.ascontiguousarray(change.apply(values)), mirrored)
    with pytest.warns(DataWarning, match="resampled"):
        labels = read_labels(
            tmp_path / "c.nrrd", Volume(values, cube), TABLE, LabelOptions(resample=True)
        )
    np.testing.assert_array_equal(labels, values)


@fault("L-04")
def test_l04_nearly_whole_labels_are_rounded(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="off whole numbers by up to") as caught:
        labels = read_labels(nifti(tmp_path, with_value(0.9999)), IMAGE, TABLE)
    assert len(caught) == 1
    assert (labels.reshape(-1)[:3] == 1).all()
    np.testing.assert_array_equal(labels.reshape(-1)[3:], MAP.reshape(-1)[3:])


@pytest.mark.parametrize("value", [-1, 255, 40000])
@fault("L-05")
def test_l05_declared_ignore_value(value: int, tmp_path: Path) -> None:
    path = nifti(tmp_path, with_value(value, dtype="i4"))
    labels = read_labels(path, IMAGE, TABLE, LabelOptions(ignore=value))
    assert labels.dtype == np.uint8
    ignored = labels == ignored_value(labels.dtype)
    assert ignored.sum() == 3
    np.testing.assert_array_equal(labels[~ignored], MAP[~ignored])


@fault("L-06")
def test_l06_large_values_widen_the_type(tmp_path: Path) -> None:
    path = nifti(tmp_path, with_value(300, dtype="i2"))
    labels = read_labels(path, IMAGE, {**TABLE, 300: "rib"})
    assert labels.dtype == np.uint16
    assert labels.max() == 300


def one_hot(*masks: np.ndarray) -> np.ndarray:
    return np.stack(masks).astype(np.uint8)


@fault("L-09", "L-11")
def test_l09_l11_stack_of_masks_or_frames(tmp_path: Path) -> None:
    path = nifti(tmp_path, one_hot(MAP == 1, MAP == 2))
    with pytest.raises(InputError, match="has 2 frames, expected one label map") as caught:
        read_labels(path, IMAGE, TABLE)
    assert caught.value.option == "--one-hot"
    with pytest.warns(DataWarning, match=r"stack of 2 masks read as the labels \[1, 2\]"):
        labels = read_labels(path, IMAGE, TABLE, LabelOptions(one_hot=True))
    np.testing.assert_array_equal(labels, MAP)
    second = read_labels(path, IMAGE, {1: "x"}, read=ReadOptions(frame=1))
    np.testing.assert_array_equal(second, MAP == 2)

    path = nifti(tmp_path, one_hot(MAP == 0, MAP == 1, MAP == 2))
    with pytest.warns(DataWarning, match="stack of 3 masks"):
        labels = read_labels(path, IMAGE, TABLE, LabelOptions(one_hot=True))
    np.testing.assert_array_equal(labels, MAP)
    with pytest.raises(InputError, match="has 3 masks for 1 declared labels"):
        read_labels(path, IMAGE, {1: "liver"}, LabelOptions(one_hot=True))
    path = nifti(tmp_path, np.stack([MAP, MAP]))
    with pytest.raises(InputError, match="more than two values"):
        read_labels(path, IMAGE, TABLE, LabelOptions(one_hot=True))


def test_frame_of_the_image_does_not_concern_a_single_label_map(tmp_path: Path) -> None:
    labels = read_labels(nifti(tmp_path), IMAGE, TABLE, read=ReadOptions(frame=3))
    np.testing.assert_array_equal(labels, MAP)


@fault("L-10")
def test_l10_overlapping_masks_need_a_priority(tmp_path: Path) -> None:
    path = nifti(tmp_path, one_hot(MAP > 0, MAP == 2))
    with pytest.raises(InputError, match="belong to several masks") as caught:
        read_labels(path, IMAGE, TABLE, LabelOptions(one_hot=True))
    assert caught.value.option == "--priority"
    options = LabelOptions(one_hot=True, priority=("tumour",))
    with pytest.warns(DataWarning, match="stack of 2 masks"):
        np.testing.assert_array_equal(read_labels(path, IMAGE, TABLE, options), MAP)


def layered(path: Path) -> Path:
    """A Slicer segmentation whose two segments overlap, each in its own layer."""
    data = np.stack([MAP > 0, MAP == 2], axis=-1).astype(np.uint8)
    lines = [
        "NRRD0005", "type: uint8", "dimension: 4", "space: left-posterior-superior",
        "sizes: 2 24 20 16", "space directions: none (-0.8,0,0) (0,-0.8,0) (0,0,3)",
        "kinds: list domain domain domain", "encoding: gzip", "space origin: (50,40,10)",
    ]  # fmt: skip
    for number, name in enumerate(("liver", "tumour")):
        lines += [
            f"Segment{number}_ID:=Segment_{number}",
            f"Segment{number}_Name:={name}",
            f"Segment{number}_LabelValue:=1",
            f"Segment{number}_Layer:={number}",
        ]
    file = path / "label.seg.nrrd"
    file.write_bytes(("\n".join(lines) + "\n\n").encode() + gzip.compress(data.tobytes()))
    return file


@fault("L-10")
def test_l10_overlapping_segments_need_a_priority(tmp_path: Path) -> None:
    path = layered(tmp_path)
    with pytest.raises(InputError, match="has overlapping segments: liver, tumour") as caught:
        read_labels(path, IMAGE, TABLE)
    assert caught.value.option == "--priority"
    for table in (TABLE, None):
        with pytest.warns(DataWarning, match="tumour win in this order"):
            labels = read_labels(path, IMAGE, table, LabelOptions(priority=("tumour",)))
        np.testing.assert_array_equal(labels, MAP)
    with pytest.warns(DataWarning, match="liver, tumour win"):
        labels = read_labels(path, IMAGE, TABLE, LabelOptions(priority=("liver", "tumour")))
    np.testing.assert_array_equal(labels, MAP > 0)
    with pytest.raises(InputError, match=r"has no segments \['spleen'\]"):
        read_labels(path, IMAGE, TABLE, LabelOptions(priority=("spleen",)))
    with pytest.raises(InputError, match=r"segments \['tumour'\] are not in the label table"):
        read_labels(path, IMAGE, {1: "liver"}, LabelOptions(priority=("tumour",)))


@fault("L-12")
def test_l12_colour_labels_need_a_table(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255]], np.uint8)
    path = png(tmp_path, colours[FLAT])
    with pytest.raises(InputError, match="is a colour picture") as caught:
        read_labels(path, PICTURE, TABLE)
    assert caught.value.option == "--colours"
    options = LabelOptions(colours={(255, 0, 0): 1, (0, 128, 255): 2})
    np.testing.assert_array_equal(read_labels(path, PICTURE, TABLE, options), FLAT)
    count = (FLAT == 2).sum()
    with pytest.raises(InputError, match=rf"1 colours are not in the table: 0080ff \({count} pix"):
        read_labels(path, PICTURE, TABLE, LabelOptions(colours={(255, 0, 0): 1}))
    grey = png(tmp_path, np.dstack([FLAT] * 3))
    np.testing.assert_array_equal(read_labels(grey, PICTURE, TABLE), FLAT)


@fault("L-13")
def test_l13_jpeg_masks_need_a_threshold(tmp_path: Path) -> None:
    square = np.zeros((12, 15), np.uint8)
    square[3:9, 4:11] = 255
    path = png(tmp_path, square, "label.jpg")
    with pytest.raises(InputError, match=r"is a JPEG.*pixels lie between 0 and") as caught:
        read_labels(path, PICTURE, {1: "polyp"})
    assert caught.value.option == "--threshold"
    with pytest.warns(DataWarning, match=r"above 127 are the object; \d+ ambiguous"):
        labels = read_labels(path, PICTURE, {1: "polyp"}, LabelOptions(threshold=127))
    np.testing.assert_array_equal(labels, square > 0)


def test_only_doubtful_shades_are_worth_a_warning(tmp_path: Path) -> None:
    clean, numbers = np.where(FLAT > 0, 255, 0).astype(np.uint8), FLAT * np.uint8(40)
    for array, threshold in ((clean, 127.0), (numbers, 0.5)):
        path = png(tmp_path, array)
        labels = read_labels(path, PICTURE, {1: "cell"}, LabelOptions(threshold=threshold))
        np.testing.assert_array_equal(labels, FLAT > 0)
    with pytest.warns(DataWarning, match=r"above 30 are the object; \d+ ambiguous"):
        read_labels(path, PICTURE, {1: "cell"}, LabelOptions(threshold=30.0))


@fault("L-17")
def test_l17_names_in_the_file_must_agree(tmp_path: Path) -> None:
    save(tmp_path / "m.nii.gz", MAP, IMAGE, labels={1: "Liver", 2: "spleen"})
    with pytest.raises(InputError, match="2 is 'spleen', expected 'tumour'") as caught:
        read_labels(tmp_path / "m.nii.gz", IMAGE, TABLE)
    assert caught.value.option == "--map-labels"
    options = LabelOptions(mapping={2: 0})
    labels = read_labels(tmp_path / "m.nii.gz", IMAGE, TABLE, options)
    np.testing.assert_array_equal(labels, MAP == 1)
    with pytest.raises(InputError, match="3 is 'rib', expected 'nothing'"):
        check_names({3: "rib"}, TABLE)
    check_names({1: "LIVER"}, TABLE)


def test_mask_of_0_and_255_is_binary(tmp_path: Path) -> None:
    mask = (FLAT == 1) * np.uint8(255)
    for table, value in ((None, 1), ({1: "polyp"}, 1), ({4: "polyp"}, 4)):
        labels = read_labels(png(tmp_path, mask), PICTURE, table)
        np.testing.assert_array_equal(labels, (FLAT == 1) * value)
    kept = read_labels(png(tmp_path, mask), PICTURE, {255: "edge"})
    np.testing.assert_array_equal(kept, mask)
    with pytest.raises(InputError, match="undeclared label values: 255"):
        read_labels(png(tmp_path, mask), PICTURE, TABLE)
    one_bit = png(tmp_path, FLAT == 1)
    np.testing.assert_array_equal(read_labels(one_bit, PICTURE), FLAT == 1)
    volume = nifti(tmp_path, (MAP == 1) * np.uint8(255))
    np.testing.assert_array_equal(read_labels(volume, IMAGE, {1: "liver"}), MAP == 1)


def test_a_threshold_may_not_swallow_the_numbers_of_instances() -> None:
    with pytest.raises(InputError, match=r"threshold 0.5 makes all of them one.*leave one of"):
        LabelOptions(instances=True, threshold=0.5)


def test_instances_keep_their_numbers(tmp_path: Path) -> None:
    numbers = np.arange(180, dtype=np.uint16).reshape(12, 15) * 300
    labels = read_labels(png(tmp_path, numbers), PICTURE, {1: "cell"}, LabelOptions(instances=True))
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, numbers)


def test_palette_numbers_are_the_labels(tmp_path: Path) -> None:
    image = Image.fromarray(FLAT).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "label.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "label.png", PICTURE, TABLE), FLAT)


def test_dicom_segmentations_lie_on_the_image(tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    series = load(write_series(tmp_path / "series"))
    mask = np.zeros(series.array.shape, np.uint8)
    mask[2:5, 1:3, 2:6] = 1
    mask[3:4, 4:6, 2:6] = 2
    save(tmp_path / "mask.dcm", mask, series, labels=TABLE)
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.dcm", series, TABLE), mask)
    with pytest.raises(
        InputError, match=r"m\.dcm: a DICOM segmentation or structure set needs a source series"
    ):
        save(tmp_path / "m.dcm", MAP, IMAGE)
    assert not (tmp_path / "m.dcm").exists()


def test_single_slice_labels_fit_pictures(tmp_path: Path) -> None:
    path = nifti(tmp_path, FLAT[None])
    np.testing.assert_array_equal(read_labels(path, PICTURE, TABLE), FLAT)
    one = Volume(FLAT[None], Geometry.from_spacing((1, 12, 15), (1, 1, 1)))
    np.testing.assert_array_equal(read_labels(png(tmp_path, FLAT), one, TABLE), FLAT[None])


def test_counts_of_any_span() -> None:
    assert count_values(np.array([[1, 1], [-3, 2**40]])) == {1: 2, -3: 1, 2**40: 1}


def test_negative_targets_are_refused() -> None:
    with pytest.raises(InputError, match="must be >= 0"):
        LabelOptions(mapping={1: -1})


def test_values_named_by_text_are_numbers() -> None:
    assert LabelOptions(mapping={"2": 1}).mapping == {2: 1}  # type: ignore[dict-item]
