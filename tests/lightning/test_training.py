"""`fit` fills the run folder, hands over the best weights, and explains what stopped it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny_run import Squares, tiny_fit, tiny_module

from segkit.errors import InputError, SegkitError
from segkit.lightning import OptimizerPlan, read_checkpoint
from segkit.lightning.training import OutOfMemoryError
from segkit.models import load_model


class Raise(Callback):
    """Fails in the first step."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_before_optimizer_step(self, *_: Any) -> None:
        raise self.error


def test_run_folder_is_complete_and_the_model_is_the_best_one(tmp_path: Path) -> None:
    module = tiny_module()
    result = tiny_fit(tmp_path, module=lambda: module, config={"seed": 0}, trainer_max_epochs=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter.safetensors", "checkpoints", "config.yaml", "environment.json", "metrics.csv",
        "run.lock", "tensorboard",
    }  # fmt: skip
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["state_dict"]
    loaded, info = load_model(tmp_path)
    for name, tensor in loaded.trainable_state().items():
        torch.testing.assert_close(tensor, best[name], rtol=0, atol=0, msg=name)
    torch.testing.assert_close(module.segmenter.trainable_state(), best, rtol=0, atol=0)
    assert info.labels == Squares.labels
    assert info.metrics == result.metrics
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert facts["data"] == "squares"
    assert facts["result"]["steps"] == result.steps == 12
    text = (tmp_path / "metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["step"] for row in rows] == [str(step) for step in range(12)]
    best_row = max((row for row in rows if row["val/dice"]), key=lambda row: float(row["val/dice"]))
    assert float(best_row["val/dice_right"]) == pytest.approx(result.metrics["val/dice_right"])


def test_same_seed_gives_the_same_checkpoint(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny_fit(tmp_path / name, trainer_max_epochs=1)
    one, two = ((tmp_path / name / "checkpoints" / "last.ckpt") for name in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()


def test_checkpoint_holds_no_frozen_weight(tmp_path: Path) -> None:
    tiny_fit(tmp_path, trainer_max_epochs=1, trainer_limit_train_batches=1)
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert not [name for name in state["state_dict"] if name.startswith("backbone.encoder")]
    assert state["segkit"]["backbone"]["name"] == "sam_tiny"


def test_training_learns(tmp_path: Path) -> None:
    plan = OptimizerPlan(lr=1e-2, warmup=0.1)
    result = tiny_fit(
        tmp_path,
        module=lambda: tiny_module(optimizer=plan),
        trainer_max_epochs=12,
        trainer_check_val_every_n_epoch=12,
    )
    assert result.metrics["val/dice"] > 0.6


def test_what_no_file_could_describe_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    many = Squares()
    many.labels = {1: "left", 300: "right"}
    with pytest.raises(InputError, match=r"mask values 1 to 255, got \[300\]"):
        tiny_fit(tmp_path / "run", slices=many)
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_names_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"halve data\.batch_size and double"):
        tiny_fit(tmp_path, callbacks=[Raise(torch.OutOfMemoryError("CUDA out of memory"))])


def test_death_of_a_worker_names_its_case(tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match="case 'x' killed its worker"):
        tiny_fit(tmp_path / "a", callbacks=[Raise(RuntimeError("DataLoader worker died"))])
    with pytest.raises(RuntimeError, match="something else"):
        tiny_fit(tmp_path / "b", callbacks=[Raise(RuntimeError("something else"))])


def test_empty_validation_side_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Squares, "cases", lambda _, side: () if side == "val" else (1,))
    with pytest.raises(InputError, match="the val side of the data has no case"):
        tiny_fit(tmp_path)
