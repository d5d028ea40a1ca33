"""When a run is saved, and how it stops when it is asked to."""

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from segkit.errors import SegkitError

Handler = Any


class InterruptedRunError(SegkitError):
    """A signal stopped the run after its state was saved; `exit_code` is 128 + the signal."""

    def __init__(self, number: int, folder: Path, step: int) -> None:
        self.exit_code = 128 + number
        super().__init__(
            f"{folder}: interrupted by {signal.Signals(number).name} and saved at step {step}; "
            "resume with ckpt_path=last"
        )


class RunKeeper(Checkpoint):
    """Save `last.ckpt` every `every_n_steps` and after each epoch, `best.ckpt` on improvement.

    A state is saved only where it can be continued exactly: after an optimiser step, but not
    between the last batch before a validation and that validation. As a `Checkpoint` it acts after
    all other callbacks. On SIGTERM or SIGINT the next
    such state is saved and the run stops; a second signal stops at once. Saving follows steps,
    never the clock. `on_best` is called with the validation metrics after `best.ckpt` was saved.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_n_steps: int = 200,
        monitor: str = "val/dice",
        mode: str = "max",
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be >= 1, got {every_n_steps}")
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
        self.folder, self.every_n_steps = Path(folder), every_n_steps
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.best: float | None = None
        self.best_metrics: dict[str, float] = {}
        self.saved_step = -1
        self.on_best: Callable[[Mapping[str, float]], None] | None = None
        self._signal: int | None = None
        self._handlers: dict[int, Handler] = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_metrics": self.best_metrics}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_metrics = state_dict["best"], state_dict["best_metrics"]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            # after the trainer's own handlers, which end an epoch without saving
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._on_signal)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not _can_continue_from_here(trainer):
            return
        is_stopped = self._is_stopped(trainer)
        if is_stopped or trainer.global_step - self.saved_step >= self.every_n_steps:
            self._save_last(trainer)
        if is_stopped:
            self._stop(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None:
            return
        if self.best is None or self.sign * float(value) > self.sign * self.best:
            self.best = float(value)
            self.best_metrics = {
                name: float(metric)
                for name, metric in trainer.callback_metrics.items()
                if name.startswith("val/")
            }
            self._save(trainer, "best")
            if self.on_best is not None and trainer.is_global_zero:
                self.on_best(self.best_metrics)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_last(trainer)
        if self._is_stopped(trainer):
            self._stop(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        self._save(trainer, "last")
        self.saved_step = trainer.global_step

    def _save(self, trainer: Trainer, name: str) -> None:
        trainer.save_checkpoint(self.folder / f"{name}.ckpt")
        for logger in trainer.loggers:
            logger.save()

    def _is_stopped(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self._signal is not None
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)

    def _stop(self, trainer: Trainer) -> None:
        raise InterruptedRunError(
            self._signal or signal.SIGTERM, self.folder.parent, trainer.global_step
        )

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number


def _can_continue_from_here(trainer: Trainer) -> bool:
    """Whether the state after this batch can be resumed without losing a step or a validation."""
    loop = trainer.fit_loop.epoch_loop
    if loop._should_accumulate() or loop._num_ready_batches_reached():
        return False
    every = trainer.val_check_batch
    if every is None or every == float("inf") or not trainer.enable_validation:
        return True
    done = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    return (done + 1) % every != 0
