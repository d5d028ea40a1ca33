"""Scores of all rows, cases and classes, and the tables made from them."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segkit.evaluation.statistics import Resampling, mean_interval, paired_difference
from segkit.metrics.case import BOTH_EMPTY, CaseMetrics

FIGURES = ("dice", "iou", "nsd", "hd95_mm", "assd_mm")
COLUMNS = (
    *("case", "group", "class", "label", *FIGURES),
    *("reference_voxels", "predicted_voxels", "flags"),
)


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of one row on one class of one case."""

    row: str
    case: str
    group: str
    value: int
    metrics: CaseMetrics


class ScoreTable:
    """Scores in the order they were measured; `labels` names the classes by value."""

    def __init__(self, scores: Sequence[Score], labels: Mapping[int, str]) -> None:
        self.scores, self.labels = tuple(scores), dict(labels)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows, first seen first."""
        return tuple(dict.fromkeys(score.row for score in self.scores))

    def of(self, row: str, value: int | None = None) -> list[Score]:
        """Scores of one row, of one class or of all."""
        return [s for s in self.scores if s.row == row and value in (None, s.value)]

    def case_means(self, row: str, figure: str) -> dict[str, float]:
        """Mean of a figure over the classes of each case."""
        by_case: dict[str, list[float]] = {}
        for score in self.of(row):
            by_case.setdefault(score.case, []).append(getattr(score.metrics, figure))
        return {case: float(np.mean(values)) for case, values in by_case.items()}

    def groups(self, row: str) -> list[str]:
        """Subject of each case, in the order of `case_means`."""
        return list({score.case: score.group for score in self.of(row)}.values())

    def summarise(self, row: str, resampling: Resampling) -> dict[str, object]:
        """Classes and mean of one row, as `summary.json` holds them."""
        classes = {
            str(value): {"name": name, **self._summarise_class(row, value, resampling)}
            for value, name in self.labels.items()
        }
        groups = self.groups(row)
        mean = {
            figure: mean_interval(
                list(self.case_means(row, figure).values()), groups, resampling=resampling
            ).to_dict()
            for figure in FIGURES
        }
        return {"classes": classes, "mean": mean}

    def compare(self, row: str, other: str, resampling: Resampling) -> dict[str, object]:
        """Paired differences `row` - `other` of the case means."""
        groups = self.groups(row)
        return {
            figure: paired_difference(
                list(self.case_means(row, figure).values()),
                list(self.case_means(other, figure).values()),
                groups,
                resampling=resampling,
            ).to_dict()
            for figure in FIGURES
        }

    def to_csv(self, row: str | None = None) -> str:
        """One line per case and class of a row; of all rows with a first column if None."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS if row else ("row", *COLUMNS))
        for score in self.scores if row is None else self.of(row):
            cells = self._cells(score)
            writer.writerow(cells if row else (score.row, *cells))
        return text.getvalue()

    def _cells(self, score: Score) -> tuple[object, ...]:
        metrics = score.metrics
        return (
            *(score.case, score.group, score.value, self.labels[score.value]),
            *(f"{getattr(metrics, figure):.6f}" for figure in FIGURES),
            *(metrics.reference_voxels, metrics.predicted_voxels, " ".join(metrics.flags)),
        )

    def _summarise_class(self, row: str, value: int, resampling: Resampling) -> dict[str, object]:
        scores = self.of(row, value)
        groups = [score.group for score in scores]
        figures = {
            figure: mean_interval(
                [getattr(score.metrics, figure) for score in scores], groups, resampling=resampling
            ).to_dict()
            for figure in FIGURES
        }
        present = [s.metrics.dice for s in scores if BOTH_EMPTY not in s.metrics.flags]
        return {
            "cases": len(scores),
            **figures,
            "flags": dict(Counter(flag for score in scores for flag in score.metrics.flags)),
            "dice_without_both_empty": float(np.mean(present)) if present else None,
        }
