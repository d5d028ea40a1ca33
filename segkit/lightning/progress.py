"""Progress of a training: a bar on a terminal, plain lines otherwise."""

import logging
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from typing_extensions import override

_log = logging.getLogger(__name__)


class ProgressLines(Callback):
    """Log one line per validation and, in long epochs, one every `seconds`."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.seconds = seconds
        self._started = self._last = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = self._last = time.monotonic()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self._last >= self.seconds:
            self._line(trainer, f"batch {batch_idx + 1}/{trainer.num_training_batches}", "train/")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._line(trainer, "validated", "")

    def _line(self, trainer: Trainer, what: str, prefix: str) -> None:
        if not trainer.is_global_zero:
            return
        self._last = time.monotonic()
        values = " ".join(
            f"{name}={float(value):.4g}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(prefix)
        )
        _log.info(
            "epoch %d/%s step %d %s after %.0f s: %s",
            trainer.current_epoch + 1,
            trainer.max_epochs if trainer.max_epochs != -1 else "?",
            trainer.global_step,
            what,
            self._last - self._started,
            values,
        )


def progress() -> Callback:
    """Return the callback that suits where standard output goes."""
    return RichProgressBar(leave=False) if sys.stdout.isatty() else ProgressLines()
