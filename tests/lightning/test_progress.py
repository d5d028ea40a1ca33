"""Plain lines where there is no terminal."""

import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import RichProgressBar
from tiny_run import tiny_fit

from segkit.lightning.progress import ProgressLines, progress


def test_every_validation_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="segkit"):
        tiny_fit(
            tmp_path,
            trainer_max_epochs=2,
            trainer_limit_train_batches=1,
            callbacks=[ProgressLines(seconds=0.0)],
        )
    assert "epoch 1/2 step 1 validated after" in caplog.text
    assert "val/dice_left=" in caplog.text
    assert "epoch 2/2 step 2 batch 1/1 after" in caplog.text


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert isinstance(progress(), RichProgressBar)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert isinstance(progress(), ProgressLines)
