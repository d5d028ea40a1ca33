"""Cohorts through real processes: killed and resumed, one process and two, an ensemble."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from segkit.cli.main import main
from segkit.cli.predict_cohort import tell
from segkit.data.preprocess import InputSpec
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.predictors.cohort import CaseResult
from segkit.predictors.ensemble import Ensemble

CASES = 24
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        torch.manual_seed(seed)
        segmenter = build.sam_tiny(classes=2)
        info = ModelInfo.of(segmenter, labels={1: "organ", 2: "cyst"}, input=InputSpec(size=64))
        save_adapter(folder / f"fold_{seed}.safetensors", segmenter, info)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    for number in range(CASES):
        array = rng.integers(0, 500, size=(22, 18, 12)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"case_{number:02}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def whole(models: list[Path], cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of one process that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    assert main(words(models[0], cases, out)) == 0
    return out


def words(model: Path, cases: Path, out: Path) -> list[str]:
    return ["predict", str(cases), "-m", str(model), "-o", str(out), "--device", "cpu"]


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def report(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run_report.json").read_text())
    return found


def test_killed_and_resumed_without_redoing_or_losing_a_case(
    models: list[Path], cases: Path, whole: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "segkit.cli.main", *words(models[0], cases, tmp_path)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    journal = tmp_path / "run_cases.jsonl"
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.nii.gz")}
    assert 4 <= len(before) < CASES
    assert not (tmp_path / "run_report.json").exists()
    assert main([*words(models[0], cases, tmp_path), "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert masks(tmp_path) == masks(whole)
    found = [case["status"] for case in report(tmp_path)["cases"]]  # type: ignore[attr-defined]
    assert (found.count("skipped"), len(found)) == (len(before), CASES)


def test_two_processes_under_torchrun_do_what_one_does(
    models: list[Path], cases: Path, whole: Path, tmp_path: Path
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "segkit.cli.main", *words(models[0], cases, tmp_path)]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    assert masks(tmp_path) == masks(whole)
    one, two = report(whole), report(tmp_path)
    assert one["inputs"] == two["inputs"] == CASES
    hashes = [
        [(Path(case["input"]).name, case["sha256"]) for case in each["cases"]]  # type: ignore[attr-defined]
        for each in (one, two)
    ]
    assert hashes[0] == hashes[1]
    parts = [path.read_text().count('"done"') for path in tmp_path.glob("run_cases.*.jsonl")]
    assert parts == [CASES // 2, CASES // 2]


def test_parts_by_hand_and_refused_beside_torchrun(
    models: list[Path],
    cases: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = words(models[0], cases, tmp_path)
    for part in ("2/3", "0/3"):
        assert main([*command, "--shard", part]) == 0
    assert len(masks(tmp_path)) == 2 * CASES // 3
    assert main([*command, "--resume"]) == 0
    assert masks(tmp_path) == masks(whole)
    assert main([*command, "--shard", "3/3"]) == 2
    assert "there is no part 3 of 3" in capsys.readouterr().err
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main([*command, "--shard", "0/3"]) == 1
    assert "torchrun shares out the inputs by itself" in capsys.readouterr().err


def test_resuming_with_another_model_mixes_nothing(
    models: list[Path], cases: Path, whole: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(cases.iterdir())[:2]:
        (few / path.name).write_bytes(path.read_bytes())
    assert main(words(models[1], few, tmp_path)) == 0
    assert masks(tmp_path)["case_00.nii.gz"] != masks(whole)["case_00.nii.gz"]
    assert main([*words(models[0], few, tmp_path), "--resume"]) == 0
    expected = masks(whole)
    assert masks(tmp_path) == {name: expected[name] for name in masks(tmp_path)}


def test_an_ensemble_of_folds_gives_one_mask(
    models: list[Path], cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = sorted(cases.iterdir())[0]
    command = [*words(models[0], case, tmp_path / "mask.nii.gz"), "-m", str(models[1])]
    assert main([*command, "--ensemble"]) == 0
    found = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj).T
    ensemble = Ensemble.from_pretrained(models, device="cpu")
    np.testing.assert_array_equal(found, ensemble.segment(case))
    assert main([*command, "--ensemble", "--box", "1,1,1,9,9,2"]) == 1
    assert "an ensemble segments its classes by itself" in capsys.readouterr().err


def test_many_masks_are_not_written_below_the_name_of_a_file(
    models: list[Path], cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(models[0], cases, tmp_path / "mask.nii.gz")) == 1
    assert f"the masks of {CASES} inputs go into a folder" in capsys.readouterr().err
    assert not (tmp_path / "mask.nii.gz").exists()


def test_prompts_for_a_model_of_classes_are_refused(
    models: list[Path], cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = sorted(cases.iterdir())[0]
    out = tmp_path / "mask.nii.gz"
    assert main([*words(models[0], case, out), "--box", "1,1,1,9,9,2"]) == 1
    assert "leave prompts and words out" in capsys.readouterr().err
    assert not out.exists()


def test_an_error_names_its_input(capsys):
    tell([CaseResult("a.png", None, "failed", error="no prompt given")])
    tell([CaseResult("b.png", None, "failed", error="b.png: is damaged")])
    assert capsys.readouterr().err.splitlines() == [
        "error: a.png: no prompt given",
        "error: b.png: is damaged",
    ]
