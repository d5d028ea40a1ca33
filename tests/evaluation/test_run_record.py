"""What a report takes from a run folder, and what it must not take."""

from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.evaluation.run_record import RunRecord


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,train/loss,val/loss,val/dice,val/dice_front,train/gradient_norm\n"
        "0,0,0.9,,,,1\n10,0,0.5,0.6,0.4,0.3,1\n20,1,0.4,0.5,0.7,0.6,1\n"
    )
    (tmp_path / "config.yaml").write_text(
        "data: {root: secret, group_by: pairs, cache_dir: secret, label_folder: secret}\n"
        "run: secret\nname: secret\nseed: 3\n"
        "backbone: {checkpoint: weights/secret.pth, _target_: segkit.models.build.nano}\n"
    )
    (tmp_path / "environment.json").write_text(
        '{"device": "cpu x86_64", "seed": 3, "data": "sha256 of secret/path", '
        '"packages": {"torch": "2.13"}}'
    )
    return tmp_path


def test_curves(run: Path) -> None:
    curves = RunRecord.read(run).curves
    assert curves["Loss"]["train loss"] == {"x": [0, 10, 20], "y": [0.9, 0.5, 0.4]}
    assert curves["Loss"]["val loss"] == {"x": [10, 20], "y": [0.6, 0.5]}
    assert set(curves["Validation Dice"]) == {"dice", "dice front"}


def test_settings_without_paths(run: Path) -> None:
    record = RunRecord.read(run)
    assert record.config["data.group_by"] == "pairs"
    assert record.config["seed"] == "3"
    assert record.facts["training device"] == "cpu x86_64"
    assert record.facts["training packages"] == "torch 2.13"
    assert "secret" not in str(record)


def test_an_empty_folder_is_an_empty_record(tmp_path: Path) -> None:
    assert RunRecord.read(tmp_path) == RunRecord()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.csv", "step,val/dice\n1,high\n", "column 'val/dice' holds something other than"),
        ("config.yaml", "a: [", "not a readable YAML file"),
        ("environment.json", "{", "not a readable JSON file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        RunRecord.read(tmp_path)
