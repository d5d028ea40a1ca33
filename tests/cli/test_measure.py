"""`segkit measure` from the command line."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image

from segkit.cli.main import main
from segkit.data.dicom import read_series
from segkit.data.dicom_seg import write_seg


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    array = np.zeros((20, 16, 6), dtype=np.uint8)
    array[4:10, 3:7, 2:4] = 1
    array[12:14, 3:7, 2:4] = 2
    path = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 0.5, 2.0, 1.0])), path)
    return path


def test_json_lists_every_label(mask: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", str(mask), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    one, two = report["labels"]
    assert (one["value"], two["value"]) == (1, 2)
    assert one["volume_ml"] == pytest.approx(48 * 0.5 / 1000)
    assert one["centroid_mm"] == pytest.approx([6.5 * 0.5, 4.5 * 0.5, 2.5 * 2])
    assert one["intensity"] is None
    assert report["slice_axis"] == 0
    assert report["spacing_mm"] == pytest.approx([2.0, 0.5, 0.5])
    assert set(report["definitions"]) >= {"diameters", "surface_mm2"}


def test_table_with_intensities(mask: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = mask.with_name("image.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(np.full((20, 16, 6), 7, np.int16), np.diag([0.5, 0.5, 2.0, 1.0])), image
    )
    assert main(["measure", str(mask), "--image", str(image)]) == 0
    head, one, _ = capsys.readouterr().out.splitlines()
    assert head.split()[-4:-2] == ["intensity_mean", "intensity_sd"]
    assert one.split()[-4:-2] == ["7", "0"]


def test_empty_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    assert main(["measure", str(path)]) == 0
    assert capsys.readouterr().out == "the mask holds no label\n"


def test_pictures_and_missing_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "mask.png")
    assert main(["measure", str(tmp_path / "mask.png")]) == 1
    assert "is a picture" in capsys.readouterr().err
    assert main(["measure", str(tmp_path / "absent.nii.gz")]) == 1
    assert "absent.nii.gz" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*unknown frame")
def test_unknown_frame_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "mask.nii.gz")
    assert main(["measure", str(tmp_path / "mask.nii.gz")]) == 1
    error = capsys.readouterr().err
    assert "nothing can be measured in mm" in error
    assert "Traceback" not in error


def test_dicom_segmentation_is_measured_on_its_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom", reason="extra [dicom]")
    image = tmp_path / "image"
    image.mkdir()
    for k in range(4):
        header = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        header.ImagePositionPatient = [0, 0, 5 * k]
        header.save_as(image / f"{k}.dcm")
    series = read_series(image)
    array = np.zeros(series.geometry.shape, dtype=np.uint8)
    array[1:3, 10:20, 10:20] = 1
    write_seg(tmp_path / "mask.dcm", array, series, {1: "nodule"})
    words = ["measure", str(tmp_path / "mask.dcm"), "--json"]
    assert main(words) == 0
    alone = json.loads(capsys.readouterr().out)["labels"][0]
    assert main([*words, "--image", str(image)]) == 0
    placed = json.loads(capsys.readouterr().out)["labels"][0]
    assert (alone["name"], placed["name"]) == ("nodule", "nodule")
    assert placed["volume_ml"] == pytest.approx(alone["volume_ml"], rel=1e-6)
    assert placed["centroid_mm"] == pytest.approx(alone["centroid_mm"], abs=1e-4)
    assert placed["intensity"]["mean"] == pytest.approx(float(series.array[array > 0].mean()))


def test_usage_errors_exit_with_2() -> None:
    assert main(["measure"]) == 2
    assert main(["measure", "--help"]) == 0


def test_change_relations_and_tables(mask: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = mask.with_name("later.nii.gz")
    array = np.zeros((20, 16, 6), dtype=np.uint8)
    array[4:10, 3:7, 2:3] = 1
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.5, 0.5, 2.0, 1.0])), later)
    table, page = mask.with_name("out.csv"), mask.with_name("out.html")
    more = ["--between", "1,2", "--csv", str(table), "--html", str(page), "--json"]
    assert main(["measure", str(mask), "--before", str(later), *more]) == 0
    report = json.loads(capsys.readouterr().out)
    one, two = report["change"]
    assert one["volume_percent"] == pytest.approx(100)
    assert two["volume_ml"] == pytest.approx([0, 16 * 0.5 / 1000])
    assert two["volume_percent"] is None
    # rows 4..9 and 12..13 along i, both at columns 3..6
    assert report["relations"][0]["gap_mm"] == pytest.approx(3 * 0.5)
    assert len(table.read_text().splitlines()) == 3
    assert "axis_angle_deg" in page.read_text()


def test_interval_of_a_probability(mask: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single, soft = mask.with_name("one.nii.gz"), mask.with_name("soft.nii.gz")
    p = np.zeros((20, 16, 6), dtype=np.float32)
    p[4:10, 3:7, 2:4], p[5:9, 3:7, 2:4] = 0.6, 0.99
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image((p > 0.5).astype(np.uint8), affine), single)
    nibabel.save(nibabel.Nifti1Image(p, affine), soft)
    assert main(["measure", str(single), "--probability", str(soft), "--json"]) == 0
    volume, _ = json.loads(capsys.readouterr().out)["intervals"]
    assert volume["ci95"] == pytest.approx([32 * 0.5 / 1000, 48 * 0.5 / 1000])
    assert main(["measure", str(mask), "--probability", str(soft)]) == 1
    assert "exactly one" in capsys.readouterr().err


def test_pictures_are_measured_with_their_pixel_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, columns = np.indices((200, 300))
    disc = ((rows - 90) / 40) ** 2 + ((columns - 150) / 100) ** 2 <= 1
    path = tmp_path / "head.png"
    Image.fromarray(disc.astype(np.uint8)).save(path)
    assert main(["measure", str(path)]) == 1
    assert "--pixel-mm" in capsys.readouterr().err
    assert main(["measure", str(path), "--pixel-mm", "0.5,0.5", "--json"]) == 0
    (label,) = json.loads(capsys.readouterr().out)["labels"]
    assert label["ellipse"]["major_mm"] == pytest.approx(100, rel=2e-3)
    assert label["ellipse"]["minor_mm"] == pytest.approx(40, rel=5e-3)
    assert main(["measure", str(path), "--pixel-mm", "0.5,0.5", "--between", "1,1"]) == 1
    assert "--between is for volumes" in capsys.readouterr().err


def test_intervals_of_relations_and_of_change(
    mask: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    paths = []
    for label, rows in ((1, slice(4, 10)), (2, slice(12, 14))):
        p = np.zeros((20, 16, 6), dtype=np.float32)
        p[rows, 3:7, 2:4] = 0.99
        p[rows.stop, 3:7, 2:4] = 0.3
        paths.append(mask.with_name(f"p{label}.nii.gz"))
        nibabel.save(nibabel.Nifti1Image(p, affine), paths[-1])
    table = mask.with_name("out.csv")
    words = ["measure", str(mask), "--before", str(mask), "--between", "1,2", "--json"]
    words += [f"--probability={n}={path}" for n, path in enumerate(paths, start=1)]
    words += [f"--before-probability=1={paths[0]}", "--csv", str(table)]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)["intervals"]
    found = {
        (row.get("value", row.get("between")), row["measurement"]): row["ci95"] for row in rows
    }
    assert found[1, "volume_ml"] == pytest.approx([48 * 0.5 / 1000, 56 * 0.5 / 1000])
    assert found["1,2", "gap_mm"] == pytest.approx([1.0, 1.5])
    assert found[1, "volume_change_percent"] == pytest.approx([100 * (48 / 56 - 1), 100 / 6])
    assert (2, "volume_change_percent") not in found
    written = table.with_name("out_intervals.csv").read_text().splitlines()
    assert len(written) == len(rows) + 1
    assert main(["measure", str(mask), f"--probability=3={paths[0]}"]) == 1
    assert "has no label 3; it has [1, 2]" in capsys.readouterr().err


def test_interval_of_the_circumference_in_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, columns = np.indices((80, 80)) - 39.5
    share = np.clip((26 - np.hypot(rows, columns)) / 6, 0, 1)
    Image.fromarray((share > 0.5).astype(np.uint8)).save(tmp_path / "head.png")
    Image.fromarray(np.rint(255 * share).astype(np.uint8)).save(tmp_path / "soft.png")
    words = ["measure", str(tmp_path / "head.png"), "--pixel-mm", "0.2,0.2", "--json"]
    assert main([*words, "--probability", str(tmp_path / "soft.png")]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {row["measurement"]: row["ci95"] for row in report["intervals"]}
    low, high = found["circumference_mm"]
    assert low < report["labels"][0]["ellipse"]["circumference_mm"] < high
