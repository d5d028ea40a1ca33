"""A limit in CPU time stops a training, drives its schedule and survives a resume."""

import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback
from tiny_run import tiny_fit, tiny_module

from segkit.lightning import CpuTimer, OptimizerPlan, read_checkpoint


class Rates(Callback):
    """Notes the learning rate of every step, and sleeps: that must not count."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.seen.append(arguments[0].optimizers[0].param_groups[0]["lr"])
        time.sleep(0.02)


def test_training_ends_after_so_much_cpu_time(tmp_path: Path) -> None:
    module = tiny_module(optimizer=OptimizerPlan(lr=3e-3, warmup=0.0, follow="time"))
    timer, rates = CpuTimer(2 / 60), Rates()
    wall = time.perf_counter()
    tiny_fit(
        tmp_path,
        module=lambda: module,
        trainer_max_epochs=-1,
        trainer_check_val_every_n_epoch=50,
        callbacks=[timer, rates],
    )
    assert 2.0 <= timer.time_elapsed() < 3.5
    assert time.perf_counter() - wall > timer.time_elapsed()
    assert rates.seen == sorted(rates.seen, reverse=True)
    assert rates.seen[-1] < 0.2 * rates.seen[0]
    (state,) = (
        value
        for name, value in read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")[
            "callbacks"
        ].items()
        if name.startswith("CpuTimer")
    )
    resumed = CpuTimer(2 / 60)
    resumed.load_state_dict(state)
    assert resumed.time_elapsed() > 1.0


def test_time_limit_is_positive() -> None:
    with pytest.raises(ValueError, match="minutes must be > 0, got 0"):
        CpuTimer(0)
