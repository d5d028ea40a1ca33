"""A run that was stopped anywhere goes on exactly where it was saved: bit for bit on the CPU."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny_run import Squares, tiny_fit, tiny_module, tiny_segmenter

from segkit.adapters import DepthwiseDilated
from segkit.errors import CheckpointError, InputError
from segkit.lightning import InterruptedRunError, OptimizerPlan, WeightAverage, read_checkpoint

EPOCHS, BATCHES = 2, 6


class Stop(Exception):  # noqa: N818
    pass


class StopBefore(Callback):
    """Ends the process of training, as far as that is possible without ending this one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Stop


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("unbroken")
    tiny_fit(run, trainer_max_epochs=EPOCHS)
    return run


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        a, b = (read_checkpoint(run / "checkpoints" / f"{name}.ckpt") for run in (one, other))
        assert a["global_step"] == b["global_step"]
        for key, tensor in a["state_dict"].items():
            torch.testing.assert_close(tensor, b["state_dict"][key], rtol=0, atol=0, msg=key)
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


@pytest.mark.parametrize("step", [4, 6, 11])
def test_resumed_run_equals_the_unbroken_one(unbroken: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(Stop):
        tiny_fit(
            tmp_path,
            trainer_max_epochs=EPOCHS,
            keeper_every_n_steps=3,
            callbacks=[StopBefore(step)],
        )
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] > step - 4
    tiny_fit(tmp_path, trainer_max_epochs=EPOCHS, resume="last")
    assert_same_run(unbroken, tmp_path)


def test_resume_is_exact_with_accumulation_validation_inside_the_epoch_and_average(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {
        "trainer_max_epochs": 2,
        "trainer_accumulate_grad_batches": 2,
        "trainer_val_check_interval": 2,
        "keeper_every_n_steps": 1,
    }
    tiny_fit(tmp_path / "a", callbacks=[WeightAverage(0.8)], **options)
    with pytest.raises(Stop):
        tiny_fit(tmp_path / "b", callbacks=[WeightAverage(0.8), StopBefore(5)], **options)
    tiny_fit(tmp_path / "b", callbacks=[WeightAverage(0.8)], resume="last", **options)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def _train(run: Path, epochs: int) -> None:
    has_checkpoint = (run / "checkpoints" / "last.ckpt").exists()
    tiny_fit(
        run,
        trainer_max_epochs=epochs,
        keeper_every_n_steps=1,
        resume="last" if has_checkpoint else None,
    )


def _in_process(task: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=task, args=arguments)
    process.start()
    return process


def _kill_at_random_moments(run: Path, kills: int, longest_s: float, epochs: int) -> None:
    chance = random.Random(7)
    for _ in range(kills):
        process = _in_process(_train, run, epochs)
        time.sleep(chance.uniform(0.2, longest_s))
        process.kill()
        process.join()
    finisher = _in_process(_train, run, epochs)
    finisher.join()
    assert finisher.exitcode == 0


# a process with threads forks: the child only trains, on one thread
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_sigkill_at_random_moments_loses_nothing(unbroken: Path, tmp_path: Path) -> None:
    _kill_at_random_moments(tmp_path, kills=3, longest_s=1.5, epochs=EPOCHS)
    assert_same_run(unbroken, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_many_sigkills_lose_nothing(tmp_path: Path) -> None:
    tiny_fit(tmp_path / "a", trainer_max_epochs=8)
    _kill_at_random_moments(tmp_path / "b", kills=40, longest_s=4.0, epochs=8)
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_stops(tmp_path: Path, number: int, code: int) -> None:
    class Send(Callback):
        def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(InterruptedRunError, match=r"saved at step 3; resume with") as raised:
        tiny_fit(tmp_path, callbacks=[Send()])
    assert raised.value.exit_code == code
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert signal.getsignal(number) is before


def test_finished_run_can_be_resumed_and_stays(unbroken: Path) -> None:
    before = (unbroken / "metrics.csv").read_text()
    result = tiny_fit(unbroken, trainer_max_epochs=EPOCHS, resume="last")
    assert result.steps == EPOCHS * BATCHES
    assert (unbroken / "metrics.csv").read_text() == before


def test_run_is_not_overwritten_by_a_new_one(unbroken: Path) -> None:
    with pytest.raises(InputError, match=r"holds a training run.*ckpt_path=last"):
        tiny_fit(unbroken)


def test_changed_data_are_refused(unbroken: Path) -> None:
    slices = Squares()
    slices.fingerprint = "others"
    with pytest.raises(InputError, match=r"data changed.*fingerprint squares, now others"):
        tiny_fit(unbroken, slices=slices, resume="last")


def test_changed_config_is_refused_by_key_or_recorded(tmp_path: Path) -> None:
    tiny_fit(tmp_path, trainer_max_epochs=1, trainer_limit_train_batches=1, config={"a": {"b": 1}})
    options: dict[str, Any] = {"trainer_limit_train_batches": 1, "config": {"a": {"b": 2}}}
    with pytest.raises(InputError, match=r"a\.b: 1 -> 2"):
        tiny_fit(tmp_path, resume="last", **options)
    tiny_fit(tmp_path, resume="last", allow_changes=True, **options)
    assert '"a.b": [\n          1,\n          2' in (tmp_path / "environment.json").read_text()


def test_another_backbone_or_adapter_is_refused(unbroken: Path) -> None:
    other = tiny_segmenter(checkpoint="random:1")
    with pytest.raises(CheckpointError, match=r"checkpoint stands on backbone .*, this run on"):
        tiny_fit(unbroken, resume="last", module=lambda: tiny_module(other))
    smaller = tiny_segmenter(adapter=lambda spec: DepthwiseDilated(spec, blocks=1))
    with pytest.raises(CheckpointError, match="trained weights do not fit this model"):
        tiny_fit(unbroken, resume="last", module=lambda: tiny_module(smaller))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainer_max_steps": 5}, r"trainer\.max_steps=5 cannot be resumed exactly"),
        ({"trainer_max_epochs": -1}, r"follow=steps needs a number of epochs"),
    ],
)
def test_limits_that_break_resume_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tiny_fit(tmp_path, **options)


def test_schedule_can_follow_the_clock(tmp_path: Path) -> None:
    plan = OptimizerPlan(lr=1e-3, follow="time", warmup=0.0)
    with pytest.raises(InputError, match=r"follow=time needs a time limit"):
        tiny_fit(tmp_path, module=lambda: tiny_module(optimizer=plan))
    result = tiny_fit(
        tmp_path,
        module=lambda: tiny_module(optimizer=plan),
        trainer_max_epochs=-1,
        trainer_max_time={"seconds": 2},
    )
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] < 0.5e-3
    assert result.steps > 0
