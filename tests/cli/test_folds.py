"""Cross-validation: one command trains the folds, here or through submitit, one merges them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from segkit.cli.folds import folds_in
from segkit.cli.main import main
from segkit.data.phantom import write_phantom_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    return write_phantom_dataset(folder / "data", cases=5, test_cases=1, shape=(8, 24, 24))


def words(data: Path, out: Path) -> list[str]:
    given = [f"data.root={data}", f"data.cache_dir={data.parent / 'cache'}", f"run={out}"]
    return ["train", "-m", *given, "debug=default", "data.limit=null", "data.folds=2"]


def check_merged(sweep: Path, data: Path) -> None:
    """The table of the trainings, and that of every case by the fold that did not see it."""
    merged = json.loads((sweep / "folds.json").read_text())
    assert [row["fold"] for row in merged["folds"]] == [0, 1]
    dice = [row["metrics"]["val/dice"] for row in merged["folds"]]
    assert merged["best_validation"]["val/dice"]["mean"] == pytest.approx(sum(dice) / 2)
    evaluation = ["eval", f"run={sweep}", f"data.root={data}", "settings.calibration=false"]
    assert main([*evaluation, "split=val"]) == 0
    summary = json.loads((sweep / "eval" / "val" / "summary.json").read_text())
    assert summary["cases"] == 5
    assert sorted(fold["cases"] for fold in summary["folds"]) == [2, 3]
    with (sweep / "eval" / "val" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["case"] for row in rows}) == 5
    mean = sum(float(row["dice"]) for row in rows) / len(rows)
    assert summary["mean"]["dice"]["mean"] == pytest.approx(mean, abs=1e-5)
    parts = [fold["cases"] * fold["dice"] for fold in summary["folds"]]
    assert summary["mean"]["dice"]["mean"] == pytest.approx(sum(parts) / 5)
    assert "adapted - zero_shot" in summary["differences"]


def test_folds_are_trained_and_merged(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(data, tmp_path / "cv"), "data.fold=0,1"]) == 0
    assert "2 folds, best validation" in capsys.readouterr().err
    check_merged(tmp_path / "cv", data)
    assert main(["eval", f"run={tmp_path / 'cv'}", f"data.root={data}"]) == 1
    assert "segkit predict --ensemble" in capsys.readouterr().err
    assert [path.name for path in folds_in(tmp_path / "cv")] == ["0", "1"]
    assert folds_in(tmp_path / "cv" / "0") == []


@pytest.mark.slow
def test_submitit_trains_the_folds_in_processes_of_its_own(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    command = [*words(data, tmp_path / "cv"), f"experiment={tmp_path / 'mine.yaml'}"]
    command += ["hydra/launcher=submitit_local", "data.fold=0,1"]
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cv" / ".submitit").glob("*/*_result.pkl"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cv", "mine.yaml"]
    check_merged(tmp_path / "cv", data)


@pytest.mark.slow
def test_a_job_of_submitit_that_fails_says_why(data: Path, tmp_path: Path) -> None:
    command = [*words(data, tmp_path / "cv"), "hydra/launcher=submitit_local", "data.fold=0,7"]
    done = run(command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "fold" in done.stderr


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "segkit.cli.main", *command],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
