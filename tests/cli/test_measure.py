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
    assert head.split()[-2:] == ["mean", "sd"]
    assert one.split()[-2:] == ["7.00", "0.00"]


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
