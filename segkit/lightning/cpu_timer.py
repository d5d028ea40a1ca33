"""A time limit in CPU time, for trainings that are compared on a machine that others use too."""

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import RunningStage
from typing_extensions import override


class CpuTimer(Timer):
    """Stop after `minutes` of CPU time of this process, all of its threads together.

    Takes the place of `trainer.max_time`: what other programs do meanwhile does not count. Time on
    a GPU does not count either, nor that of processes that load data. `optimizer.follow=time`
    follows it, validation is part of it, and a resumed run goes on counting.

    Raises:
        ValueError: `minutes` is not positive.

    Example:
        >>> CpuTimer(0.5).time_remaining()
        30.0
    """

    def __init__(self, minutes: float) -> None:
        if not minutes > 0:
            raise ValueError(f"minutes must be > 0, got {minutes}")
        super().__init__(timedelta(minutes=minutes), verbose=False)
        self._started_s: float | None = None
        self._ended_s: float | None = None

    @override
    def time_elapsed(self, stage: str = RunningStage.TRAINING) -> float:
        """CPU seconds of the training; other stages have no limit and keep wall time."""
        if RunningStage(stage) != RunningStage.TRAINING:
            return super().time_elapsed(stage)
        if self._started_s is None:
            return float(self._offset)
        end = time.process_time() if self._ended_s is None else self._ended_s
        return end - self._started_s + self._offset

    @override
    def on_train_start(self, *arguments: Any) -> None:
        self._started_s, self._ended_s = time.process_time(), None

    @override
    def on_train_end(self, *arguments: Any) -> None:
        self._ended_s = time.process_time()
