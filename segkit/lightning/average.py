"""Exponential moving average of the trained weights."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from segkit.lightning.optimizer import trainable_parameters
from segkit.models.segmenter import Segmenter


class WeightAverage(Callback):
    """Validate, keep as best and hand over the average of the weights instead of the last ones.

    After each optimiser step: average = decay * average + (1 - decay) * weight; decay grows from 0
    with (1 + steps) / (10 + steps), so that the start is forgotten. Only trainable parameters are
    copied; the frozen encoder is not. `decay` 0 turns it off.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay, self.steps, self.seen = decay, 0, 0
        self.average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "seen": self.seen, "average": self.average}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.seen = state_dict["steps"], state_dict["seen"]
        self.average = state_dict["average"]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.decay:
            return
        weights = self._weights(pl_module)
        if not self.average:
            self.average = {name: weight.clone() for name, weight in weights.items()}
        self.average = {name: self.average[name].to(weights[name].device) for name in weights}

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.average or trainer.global_step == self.seen:  # off, or still accumulating
            return
        self.steps, self.seen = self.steps + 1, trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights = self._weights(pl_module)
        with torch.no_grad():
            for name, mean in self.average.items():
                mean.lerp_(weights[name].to(mean), 1 - decay)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average and not self._raw:
            weights = self._weights(pl_module)
            self._raw = {name: weight.clone() for name, weight in weights.items()}
            self._write(pl_module, self.average)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._restore(pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore(pl_module)

    def _restore(self, pl_module: LightningModule) -> None:
        # not at the end of the validation, because the best model is saved after it
        if self._raw:
            self._write(pl_module, self._raw)
            self._raw = {}

    def _write(self, pl_module: LightningModule, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self._weights(pl_module).items():
                weight.copy_(values[name])

    @staticmethod
    def _weights(pl_module: LightningModule) -> dict[str, Tensor]:
        segmenter = cast(Segmenter, pl_module.segmenter)
        return {name: p.detach() for name, p in trainable_parameters(segmenter).items()}
