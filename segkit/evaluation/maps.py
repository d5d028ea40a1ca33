"""Figures that need probabilities and not only labels: calibration and saliency, slice by slice."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from segkit.data.preprocess import SliceView
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.settings import Saliency
from segkit.evaluation.statistics import Resampling, mean_interval
from segkit.metrics.calibration import BINS, Calibration, calibration
from segkit.metrics.saliency import DEFINITIONS, SALIENCY, SaliencyMetrics, saliency_metrics


class MapTally:
    """Collects probability maps of the rows that have them; memory holds one slice.

    Calibration adds up over all decoded slices, classes and cases, with the interval over cases;
    saliency is that of each slice and class that was decoded, averaged within a case.
    """

    def __init__(self, *, calibration: bool = True, saliency: Saliency | None = None) -> None:
        self.has_calibration, self.saliency = calibration, saliency
        self._calibration: dict[str, dict[str, Calibration]] = defaultdict(dict)
        self._saliency: dict[str, dict[str, list[SaliencyMetrics]]] = defaultdict(dict)
        self._groups: dict[str, str] = {}

    def predict(self, row: Row, sample: Sample) -> Integer[np.ndarray, "*shape"]:
        """Labels of a row, having looked at its maps if it has some and they are wanted."""
        if row.watched is None or not (self.has_calibration or self.saliency):
            return row.predict(sample)
        self._groups[sample.id] = sample.group
        return row.watched(sample, partial(self._look, row.name, sample))

    def summarise(self, row: str, resampling: Resampling) -> dict[str, Any]:
        """Entries of a row in `summary.json`; nothing for rows without maps."""
        found: dict[str, Any] = {}
        if cases := self._calibration.get(row):
            total = sum(cases.values(), start=_nothing())
            found["calibration"] = {
                "ece": total.ece,
                "mce": total.mce,
                "voxels": total.voxels,
                "ece_by_case": self._interval({c: one.ece for c, one in cases.items()}, resampling),
                "bins": _bins(total),
            }
        if pictures := self._saliency.get(row):
            found["saliency"] = {
                figure: self._interval(
                    {
                        case: float(np.mean([getattr(one, figure) for one in slices]))
                        for case, slices in pictures.items()
                    },
                    resampling,
                )
                for figure in SALIENCY
            }
        return found

    def definitions(self) -> dict[str, str]:
        """One sentence for each figure."""
        found = {}
        if self._calibration:
            found["calibration"] = (
                f"expected (ece) and maximum (mce) gap between mean probability and share of the "
                f"foreground in {BINS} equal bins, pooled over classes and decoded slices; "
                "ece_by_case: the same case by case"
            )
        if self._saliency:
            how = "stretched to [0, 1] by picture" if self.saliency == "minmax" else "as predicted"
            found |= {name: f"{text}; probabilities {how}" for name, text in DEFINITIONS.items()}
        return found

    def _look(
        self,
        row: str,
        sample: Sample,
        view: SliceView,
        index: int,
        maps: Float[np.ndarray, "c h w"],
    ) -> None:
        reference = view.stack(sample.reference)[index]
        kept = np.ones(reference.shape, dtype=bool)
        if sample.ignored is not None:
            kept = ~view.stack(sample.ignored)[index]
        for value, probability in enumerate(maps, start=1):
            truth = (reference == value) & kept
            if self.has_calibration:
                known = self._calibration[row].get(sample.id, _nothing())
                self._calibration[row][sample.id] = known + calibration(
                    probability[kept], truth[kept]
                )
            if self.saliency is not None:
                one = saliency_metrics(
                    np.where(kept, probability, 0), truth, stretch=self.saliency == "minmax"
                )
                self._saliency[row].setdefault(sample.id, []).append(one)

    def _interval(self, values: Mapping[str, float], resampling: Resampling) -> dict[str, object]:
        groups: Sequence[str] = [self._groups[case] for case in values]
        return mean_interval(list(values.values()), groups, resampling=resampling).to_dict()


def _nothing() -> Calibration:
    return Calibration(np.zeros(BINS, dtype=np.int64), np.zeros(BINS), np.zeros(BINS))


def _bins(total: Calibration) -> dict[str, list[float | None]]:
    """Reliability diagram: mean probability and share of foreground by bin, null where empty."""
    counts = total.counts.tolist()
    return {
        "voxels": counts,
        "probability": _means(total.probability, counts),
        "foreground": _means(total.truth, counts),
    }


def _means(sums: Float[np.ndarray, " bins"], counts: Sequence[int]) -> list[float | None]:
    return [float(s) / n if n else None for s, n in zip(sums, counts, strict=True)]
