"""The moving average follows the weights and stands in for them during validation."""

from pathlib import Path

import pytest
import torch
from tiny_run import tiny_fit

from segkit.lightning import WeightAverage, read_checkpoint


def test_best_holds_the_average_and_last_the_weights(tmp_path: Path) -> None:
    average = WeightAverage(decay=0.9)
    tiny_fit(tmp_path, trainer_max_epochs=1, trainer_limit_train_batches=3, callbacks=[average])
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["state_dict"]
    last = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    name = "decoder.class_tokens"
    torch.testing.assert_close(best[name], average.average[name], rtol=0, atol=0)
    assert not torch.equal(best[name], last[name])
    assert average.steps == 3


def test_average_is_restored_on_resume(tmp_path: Path) -> None:
    options = {"trainer_limit_train_batches": 3, "trainer_max_epochs": 2}
    unbroken, resumed = WeightAverage(0.9), WeightAverage(0.9)
    tiny_fit(tmp_path / "a", callbacks=[unbroken], **options)
    tiny_fit(tmp_path / "b", callbacks=[WeightAverage(0.9)], **options | {"trainer_max_epochs": 1})
    tiny_fit(tmp_path / "b", callbacks=[resumed], resume="last", **options | {})
    assert resumed.steps == unbroken.steps == 6


def test_decay_is_checked() -> None:
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got 1.0"):
        WeightAverage(decay=1.0)


def test_decay_zero_is_off(tmp_path: Path) -> None:
    average = WeightAverage(decay=0.0)
    tiny_fit(tmp_path, trainer_max_epochs=1, trainer_limit_train_batches=2, callbacks=[average])
    assert (average.average, average.steps) == ({}, 0)
