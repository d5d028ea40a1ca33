"""How much a promptable model depends on the care of the person who prompts it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Integer

from segkit.evaluation.prompted import OraclePredictor
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.settings import RobustnessPlan
from segkit.metrics.overlap import overlap

Curve = dict[str, list[float]]


def robustness(
    rows: Sequence[Row], samples: Sequence[Sample], plan: RobustnessPlan
) -> dict[str, object]:
    """Mean Dice over cases and classes against box jitter and against the number of clicks.

    Only promptable rows take part; without one, or without samples, the answer is empty. `spread`
    is the standard deviation over cases.
    """
    prompted = {row.name: row.predict for row in rows if isinstance(row.predict, OraclePredictor)}
    if not prompted or not samples:
        return {}
    return {
        "cases": len(samples),
        "box_jitter": {
            "x": list(plan.jitter),
            "rows": {name: _jitter(one, samples, plan.jitter) for name, one in prompted.items()},
        },
        "clicks": {
            "x": list(plan.clicks),
            "rows": {name: _clicks(one, samples, plan.clicks) for name, one in prompted.items()},
        },
    }


def mean_dice(
    prediction: Integer[np.ndarray, "*shape"],
    reference: Integer[np.ndarray, "*shape"],
    labels: Mapping[int, str],
) -> float:
    """Mean over the classes that the reference contains."""
    present = [value for value in labels if (reference == value).any()]
    if not present:
        return float(not np.isin(prediction, list(labels)).any())
    return float(
        np.mean([overlap(prediction == value, reference == value).dice for value in present])
    )


def _jitter(oracle: OraclePredictor, samples: Sequence[Sample], levels: Sequence[float]) -> Curve:
    columns = []
    for jitter in levels:
        one = replace(oracle, protocol=replace(oracle.protocol, kind="box", jitter=jitter))
        columns.append([mean_dice(one(s), s.reference, oracle.labels) for s in samples])
    return _curve(columns)


def _clicks(oracle: OraclePredictor, samples: Sequence[Sample], counts: Sequence[int]) -> Curve:
    one = replace(oracle, protocol=replace(oracle.protocol, kind="clicks", clicks=max(counts)))
    columns: list[list[float]] = [[] for _ in counts]
    for sample in samples:
        labels = one.snapshots(sample, counts)
        for column, count in zip(columns, counts, strict=True):
            column.append(mean_dice(labels[count], sample.reference, oracle.labels))
    return _curve(columns)


def _curve(columns: Sequence[Sequence[float]]) -> Curve:
    return {
        "dice": [float(np.mean(column)) for column in columns],
        "spread": [float(np.std(column)) for column in columns],
    }
