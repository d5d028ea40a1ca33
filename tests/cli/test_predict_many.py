import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segkit.adapters import DepthwiseDilated
from segkit.cli.main import main
from segkit.data.preprocess import InputSpec, Intensity
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.predictors.base import Predictor


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    paths = []
    for name, classes in (("liver", 1), ("vessels", 2)):
        segmenter = build.sam_tiny(classes=classes, trainable="decoder")
        labels = {value: f"{name} {value}" for value in range(1, classes + 1)}
        info = ModelInfo.of(segmenter, labels=labels, input=InputSpec(size=64))
        save_adapter(path := tmp_path / f"{name}.safetensors", segmenter, info)
        paths.append(str(path))
    return paths


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).normal(size=(20, 24, 4)).astype(np.float32)
    path = tmp_path / "case_1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return path


def test_each_model_writes_what_it_writes_alone(
    models: list[str], scan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["predict", str(scan), "-m", models[0], "-m", models[1], "-o", str(out)]
    assert main([*words, "--device", "cpu"]) == 0
    for path, name in zip(models, ("liver", "vessels"), strict=True):
        found = np.asarray(nibabel.load(out / name / "case_1.nii.gz").dataobj).T
        assert (found == Predictor.from_pretrained(path, device="cpu").segment(scan)).all()
    report = json.loads((out / "run_report.json").read_text())
    assert (report["model"], report["failed"]) == ("liver, vessels", 0)
    assert main([*words, "--resume"]) == 0
    report = json.loads((out / "run_report.json").read_text())
    assert {case["status"] for case in report["cases"]} == {"skipped"}


def test_refusals(
    models: list[str], scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(scan), "-m", models[0], "-m", models[1]]
    assert main([*words, "-o", str(tmp_path / "mask.nii.gz")]) == 1
    assert "the masks of several models go into a folder" in capsys.readouterr().err
    for option, said in (
        (["--box", "1,1,1,9,9,2"], "several models segment their classes by themselves"),
        (["--text", "a bright spot"], "words prompt one model"),
        (["--label", "liver"], "--label is for one model"),
        (["--mirror"], "--mirror is for one model"),
    ):
        assert main([*words, "-o", str(tmp_path / "out"), *option]) == 1
        assert said in capsys.readouterr().err
    segmenter = build.sam_tiny()
    save_adapter(path := tmp_path / "clicks.safetensors", segmenter, ModelInfo.of(segmenter))
    assert main([*words, "-m", str(path), "-o", str(tmp_path / "out")]) == 1
    assert "'clicks' needs prompts" in capsys.readouterr().err


def test_a_model_that_cannot_read_a_case_is_named(
    models: list[str], scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter = build.sam_tiny(classes=1, adapter=DepthwiseDilated)
    spec = InputSpec(dimensions=2, size=64, channels="repeat", intensity=Intensity("full"))
    (run := tmp_path / "photos.v2").mkdir()
    path = run / "adapter.safetensors"
    save_adapter(path, segmenter, ModelInfo.of(segmenter, labels={1: "spot"}, input=spec))
    words = ["predict", str(scan), "-m", models[0], "-m", str(path), "-o", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == 1
    assert "case_1.nii.gz: model 'photos.v2': intensity 'full' needs" in capsys.readouterr().err
