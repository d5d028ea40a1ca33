"""Predict and measure case by case, with time and memory; one case is in memory at a time."""

import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from segkit.evaluation.maps import MapTally
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.scores import Score, ScoreTable
from segkit.evaluation.settings import Scoring
from segkit.evaluation.statistics import Resampling
from segkit.metrics import label_metrics

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Clock:
    """Seconds per case of every row."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, row: str, seconds: float) -> None:
        """Record one case."""
        self.seconds.setdefault(row, []).append(seconds)

    def to_dict(self) -> dict[str, object]:
        """Mean, median and total by row."""
        return {
            row: {
                "mean": round(float(np.mean(values)), 4),
                "median": round(float(np.median(values)), 4),
                "total": round(float(np.sum(values)), 3),
            }
            for row, values in self.seconds.items()
        }


class Figures(Protocol):
    """Figures beside those of a `ScoreTable`."""

    def summarise(self, row: str, resampling: Resampling) -> dict[str, Any]:
        """Entries of a row in `summary.json`."""
        ...

    def definitions(self) -> dict[str, str]:
        """One sentence for each figure."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores, times, the units in which distances were measured, and figures of maps or clips."""

    table: ScoreTable
    clock: Clock
    units: frozenset[str]
    maps: Figures = field(default_factory=MapTally)


def measure(
    rows: Sequence[Row],
    samples: Iterable[Sample],
    labels: Mapping[int, str],
    scoring: Scoring,
    maps: MapTally | None = None,
) -> Measured:
    """Run every row on every sample and compare with the reference on the grid of the sample.

    `maps` looks at the probabilities of the rows that have some.

    Raises:
        ValueError: A row returns a label map of another shape than the reference.
    """
    scores: list[Score] = []
    clock, units = Clock(), set()
    maps = maps or MapTally(calibration=False)
    for number, sample in enumerate(samples, start=1):
        units.add(sample.unit)
        for row in rows:
            start = time.perf_counter()
            prediction = maps.predict(row, sample)
            clock.add(row.name, time.perf_counter() - start)
            if prediction.shape != sample.reference.shape:
                raise ValueError(
                    f"row {row.name!r} returned shape {prediction.shape} for a case of shape "
                    f"{sample.reference.shape}; predictions must lie on the grid of the case"
                )
            if sample.ignored is not None:
                prediction = np.where(sample.ignored, 0, prediction)
            figures = label_metrics(
                prediction,
                sample.reference,
                labels,
                sample.spacing_mm,
                tolerance_mm=scoring.tolerance_mm,
                definition=scoring.definition,
            )
            scores += [
                Score(row.name, sample.id, sample.group, value, one)
                for value, one in figures.items()
            ]
        # no case names in logs: they may identify people
        _log.info("evaluated case %d", number)
    return Measured(ScoreTable(scores, labels), clock, frozenset(units), maps)


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """Highest resident memory of this process so far, and on the GPU where one is used."""
    peaks = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        scale = 2**20 if sys.platform == "darwin" else 2**10
        peaks["host"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)
    if device.type == "cuda":
        peaks["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return peaks
