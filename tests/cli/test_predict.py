"""`segkit predict` on files: grids, formats, refusals, cohorts."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image

from segkit.cli.main import main
from segkit.data.preprocess import InputSpec
from segkit.data.readers import load
from segkit.data.volume import Volume
from segkit.data.writers import save
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo

AFFINE = np.array(
    [[0.78, -0.12, 0.3, -40.0], [0.1, 0.79, 0.2, 12.5], [-0.05, 0.0, 2.9, 7.0], [0, 0, 0, 1]]
)


@pytest.fixture(scope="module")
def automatic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "automatic.safetensors"
    segmenter = build.sam_tiny(classes=2)
    info = ModelInfo.of(segmenter, labels={1: "organ", 2: "lesion"}, input=InputSpec(size=64))
    save_adapter(path, segmenter, info)
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).integers(0, 500, size=(22, 18, 5)).astype(np.int16)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    return path


def run(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu"])


def test_mask_of_an_oblique_volume_has_exactly_its_grid(
    automatic: Path, volume: Path, tmp_path: Path
) -> None:
    assert run(volume, "-m", automatic, "-o", tmp_path / "mask.nii.gz") == 0
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, nibabel.load(volume).affine, atol=1e-6)
    assert mask.shape == (22, 18, 5)
    assert mask.get_data_dtype() == np.uint8


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
def test_every_output_format_holds_the_same_mask_on_the_same_grid(
    automatic: Path, tmp_path: Path, suffix: str
) -> None:
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 99, size=(5, 18, 22)))
    image.SetSpacing((0.8, 0.9, 3.0))
    image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    image.SetOrigin((-10, 5, 2.5))
    SimpleITK.WriteImage(SimpleITK.Cast(image, SimpleITK.sitkInt16), tmp_path / "scan.nrrd")
    outputs = [tmp_path / f"a{suffix}", tmp_path / "b.nrrd"]
    for output in outputs:
        assert run(tmp_path / "scan.nrrd", "-m", automatic, "-o", output) == 0
    first, second = (load(output) for output in outputs)
    source = load(tmp_path / "scan.nrrd")
    assert isinstance(first, Volume)
    np.testing.assert_array_equal(first.array, second.array)
    np.testing.assert_allclose(first.geometry.affine, source.geometry.affine, atol=1e-5)


def test_names_of_the_classes_travel_with_the_mask(
    automatic: Path, volume: Path, tmp_path: Path
) -> None:
    assert run(volume, "-m", automatic, "-o", tmp_path / "mask.seg.nrrd") == 0
    text = (tmp_path / "mask.seg.nrrd").read_bytes()[:4000].decode("latin-1")
    labels = set(np.unique(load(tmp_path / "mask.seg.nrrd").array)) - {0}
    assert labels
    for value in labels:
        assert {1: "organ", 2: "lesion"}[int(value)] in text


def test_zoom_looks_closely_and_is_reported(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = (volume, "-m", "sam_tiny", "--box", "4,3,1,9,8,3", "-o")
    assert run(*args, tmp_path / "whole.nii") == 0
    capsys.readouterr()
    assert run(*args, tmp_path / "close.nii", "--zoom", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["zoom"] == 2
    whole, close = (load(tmp_path / name).array > 0 for name in ("whole.nii", "close.nii"))
    assert (whole != close).any()
    assert not close[:, 16:].any()  # windows have 16 pixels at least, from 0 on here
    assert not close[:, :, 16:].any()


def test_label_keeps_one_class(automatic: Path, volume: Path, tmp_path: Path) -> None:
    assert run(volume, "-m", automatic, "-o", tmp_path / "m.nii", "--label", "organ") == 0
    assert set(np.unique(load(tmp_path / "m.nii").array)) <= {0, 1}


def test_points_and_boxes_are_in_the_order_of_the_file(volume: Path, tmp_path: Path) -> None:
    args = (volume, "-m", "sam_tiny", "-o")
    assert run(*args, tmp_path / "box.nii", "--box", "4,3,1,15,12,3") == 0
    marked = np.flatnonzero(load(tmp_path / "box.nii").array.any(axis=(1, 2)))
    assert set(marked) <= {1, 2}
    x, y, z = AFFINE[:3] @ [10, 8, 2, 1]
    assert run(*args, tmp_path / "voxel.nii", "--point", "10,8,2") == 0
    assert run(*args, tmp_path / "ras.nii", f"--point={x},{y},{z}:1", "--space", "ras") == 0
    assert run(*args, tmp_path / "lps.nii", f"--point={-x},{-y},{z}", "--space", "lps") == 0
    expected = load(tmp_path / "voxel.nii").array
    np.testing.assert_array_equal(load(tmp_path / "ras.nii").array, expected)
    np.testing.assert_array_equal(load(tmp_path / "lps.nii").array, expected)


def test_picture_gives_a_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, size=(40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "polyp.png")
    output = tmp_path / "mask.png"
    assert run(tmp_path / "polyp.png", "-m", "sam_tiny", "-o", output, "--box", "5,6,50,30") == 0
    with Image.open(output) as mask:
        assert mask.size == (60, 40)


def test_mask_prompt_is_read_from_a_file(volume: Path, tmp_path: Path) -> None:
    args = (volume, "-m", "sam_tiny", "-o")
    assert run(*args, tmp_path / "first.nii", "--box", "4,3,1,15,12,3") == 0
    assert run(*args, tmp_path / "again.nii", "--mask", tmp_path / "first.nii") == 0
    first, again = (load(tmp_path / name).array for name in ("first.nii", "again.nii"))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--point", "10,8,99"], "outside the image"),
        (["--point", "10,8"], r"3 numbers in the order"),
        (["--point", "10,8,x"], r"expected 3 numbers"),
        (["--point", "1,1,1:7"], "must be 0 or 1"),
        (["--box", "4,3,1,4,12,3"], "no extent along i"),
        (["--lasso", "1,1,1;5,1,1;5,5,2"], "a lasso lies on one slice"),
        (["--scribble", "1,1,1;99,1,1"], "outside the image"),
        (["--scribble", "missing.nii.gz"], "missing.nii.gz"),
        (["--propagate"], "no prompt given; add a point"),
        (["--point", "10,8,2", "--propagate", "--slices", "3-4"], "expected A:B"),
        (["--point", "10,8,2", "--slices", "3:4"], "add --propagate"),
        (["--point", "10,8,2", "--propagate", "--slices", "0:99"], "0 <= start < stop <= "),
        (["--text", "liver="], "says nothing"),
        (["--box", "4,3,1,15,12,3", "--zoom", "0.5"], "zoom needs a factor >= 1"),
        ([], "no prompt given; add a point"),
    ],
)
def test_unusable_prompts_give_one_paragraph_and_no_file(
    volume: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    assert run(volume, "-m", "sam_tiny", "-o", tmp_path / "out.nii.gz", *words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii.gz"]


def test_damaged_case_is_listed_and_the_others_go_on(
    automatic: Path, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "cases", tmp_path / "masks"
    folder.mkdir()
    for name in ("a", "c"):
        (folder / f"{name}.nii.gz").write_bytes(volume.read_bytes())
    (folder / "b.nii.gz").write_bytes(volume.read_bytes()[:900])
    assert run(folder, "-m", automatic, "-o", out, "--json") == 1
    captured = capsys.readouterr()
    assert "b.nii.gz" in captured.err
    report = json.loads((out / "run_report.json").read_text())
    assert json.loads(captured.out) == report
    assert [case["status"] for case in report["cases"]] == ["done", "failed", "done"]
    assert "truncated" in report["cases"][1]["error"]
    assert sorted(path.name for path in out.iterdir()) == [
        "a.nii.gz",
        "c.nii.gz",
        "run_cases.jsonl",
        "run_report.json",
    ]


def test_resume_skips_what_is_done(automatic: Path, volume: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "cases", tmp_path / "masks"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.nii.gz").write_bytes(volume.read_bytes())
    assert run(folder, "-m", automatic, "-o", out) == 0
    (out / "b.nii.gz").unlink()
    before = (out / "a.nii.gz").stat().st_mtime_ns
    assert run(folder, "-m", automatic, "-o", out, "--resume") == 0
    assert (out / "a.nii.gz").stat().st_mtime_ns == before
    report = json.loads((out / "run_report.json").read_text())
    assert [case["status"] for case in report["cases"]] == ["skipped", "done"]


def test_input_is_never_overwritten(
    automatic: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = volume.read_bytes()
    assert run(volume, "-m", automatic, "-o", volume) == 1
    assert "overwrite the input" in capsys.readouterr().err
    assert volume.read_bytes() == before


def test_empty_folder_names_what_can_be_read(
    automatic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "-m", automatic, "-o", tmp_path / "out") == 1
    assert "readable file types: .nii.gz" in capsys.readouterr().err


def test_objects_are_labelled_in_their_order_and_keep_their_names(
    volume: Path, tmp_path: Path
) -> None:
    words = ["--box", "4,3,1,12,12,3@cyst", "--point", "16,12,2@vessel"]
    assert run(volume, "-m", "sam_tiny", "-o", tmp_path / "both.seg.nrrd", *words) == 0
    assert dict(load(tmp_path / "both.seg.nrrd").labels) == {1: "cyst", 2: "vessel"}


def test_scribbles_come_from_a_file_or_as_a_line(volume: Path, tmp_path: Path) -> None:
    opened = load(volume)
    drawn = np.zeros(opened.array.shape, dtype=np.uint8)
    drawn[2, 8, 8:13] = 1
    drawn[2, 2, 2:5] = 2
    save(tmp_path / "drawn.nii.gz", drawn, opened)
    for name, words in (
        ("file", ["--scribble", str(tmp_path / "drawn.nii.gz")]),
        ("line", ["--scribble", "8,8,2;12,8,2", "--scribble", "2,2,2;4,2,2:0"]),
        ("one", ["--scribble", "8,8,2;12,8,2"]),
    ):
        out = tmp_path / f"{name}.nii"
        assert run(volume, "-m", "nano", "-o", out, *words) == 0
    first, second, third = (
        load(tmp_path / f"{name}.nii").array for name in ("file", "line", "one")
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


def test_empty_drawing_names_the_file(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = load(volume)
    save(tmp_path / "drawn.nii.gz", np.zeros(opened.array.shape, dtype=np.uint8), opened)
    words = ["--scribble", tmp_path / "drawn.nii.gz"]
    assert run(volume, "-m", "sam_tiny", "-o", tmp_path / "out.nii", *map(str, words)) == 1
    assert "drawn.nii.gz: holds no voxel 1 (adds) or 2 (removes)" in capsys.readouterr().err


def test_lasso_propagates_through_the_range_along_the_axis(volume: Path, tmp_path: Path) -> None:
    words = ["--lasso", "10,3,1;10,12,1;10,12,4;10,3,4", "--axis", "i"]
    words += ["--propagate", "--slices", "9:12"]
    out = tmp_path / "out.nii"
    assert run(volume, "-m", "sam_tiny", "-o", out, *words) == 0
    found = np.flatnonzero(load(out).array.any(axis=(0, 1)))
    assert 10 in found
    assert set(found) <= {9, 10, 11}


def test_mirroring_changes_the_scores_of_an_automatic_model(
    automatic: Path, volume: Path, tmp_path: Path
) -> None:
    for name, words in (("plain", []), ("mirror", ["--mirror", "--overlap", "0.25"])):
        assert run(volume, "-m", automatic, "-o", tmp_path / f"{name}.nii", *words) == 0
    plain, mirror = (load(tmp_path / f"{name}.nii").array for name in ("plain", "mirror"))
    assert plain.shape == mirror.shape
    assert not np.array_equal(plain, mirror)


def test_uncertainty_lies_on_the_grid_of_the_input(volume: Path, tmp_path: Path) -> None:
    entropy = tmp_path / "entropy.nii.gz"
    words = ("-m", "sam_tiny", "--box", "4,4,2,16,14,3", "--uncertainty", entropy)
    assert run(volume, *words, "-o", tmp_path / "mask.nii.gz") == 0
    found = nibabel.load(entropy)
    np.testing.assert_allclose(found.affine, nibabel.load(volume).affine, atol=1e-6)
    percent = np.asarray(found.dataobj)
    assert 0 < percent[:, :, 2].max() <= 100
    assert not percent[:, :, [0, 1, 3, 4]].any()


def test_uncertainty_needs_one_prompted_object(
    automatic: Path, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--uncertainty", tmp_path / "entropy.nii.gz")
    assert run(volume, "-m", automatic, "-o", tmp_path / "mask.nii.gz", *words) == 1
    assert "--uncertainty needs a prompted object" in capsys.readouterr().err
    assert run(volume, volume, "-m", automatic, "-o", tmp_path / "out", *words) != 0
    assert "--uncertainty writes one file, got" in capsys.readouterr().err
