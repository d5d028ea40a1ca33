"""How much a promptable model depends on the care of the person who prompts it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Integer

from segkit.evaluation.oracle import OracleProtocol
from segkit.evaluation.prompted import OraclePredictor
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.settings import RobustnessPlan
from segkit.evaluation.volume_user import Desk, VolumeOracle
from segkit.metrics.overlap import overlap

Curve = dict[str, list[float]]
Oracle = OraclePredictor | VolumeOracle


def robustness(
    rows: Sequence[Row], samples: Iterable[Sample], plan: RobustnessPlan
) -> dict[str, object]:
    """Mean Dice over cases and classes against box jitter and against the number of clicks.

    Only promptable rows take part; without one, or without samples, the answer is empty. `spread`
    is the standard deviation over cases. One sample is in memory at a time.
    """
    prompted = _prompted(rows)
    jitter: dict[str, list[list[float]]] = {name: [] for name in prompted}
    clicks: dict[str, list[list[float]]] = {name: [] for name in prompted}
    count = 0
    for sample in samples if prompted else ():
        count += 1
        for name, oracle in prompted.items():
            jitter[name].append([_with_jitter(oracle, sample, level) for level in plan.jitter])
            clicks[name].append(_with_clicks(oracle, sample, plan.clicks))
    if not count:
        return {}
    return {
        "cases": count,
        "box_jitter": {"x": list(plan.jitter), "rows": _curves(jitter)},
        "clicks": {"x": list(plan.clicks), "rows": _curves(clicks)},
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


def _prompted(rows: Sequence[Row]) -> dict[str, Oracle]:
    """Rows that are prompted; of those that differ in the number of clicks only the first."""
    found: dict[str, Oracle] = {}
    for row in rows:
        oracle = row.predict
        if isinstance(oracle, OraclePredictor | VolumeOracle) and not any(
            known.predictor is oracle.predictor for known in found.values()
        ):
            found[row.name] = oracle
    return found


def _asked(oracle: Oracle, protocol: OracleProtocol) -> Oracle:
    if isinstance(oracle, VolumeOracle):
        return replace(oracle, protocol=protocol, desk=Desk())
    return replace(oracle, protocol=protocol)


def _with_jitter(oracle: Oracle, sample: Sample, jitter: float) -> float:
    one = _asked(oracle, replace(oracle.protocol, kind="box", jitter=jitter))
    return mean_dice(one(sample), sample.reference, oracle.labels)


def _with_clicks(oracle: Oracle, sample: Sample, counts: Sequence[int]) -> list[float]:
    one = _asked(oracle, replace(oracle.protocol, kind="clicks", clicks=max(counts)))
    labels = one.snapshots(sample, counts)
    return [mean_dice(labels[count], sample.reference, oracle.labels) for count in counts]


def _curves(dice: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Curve]:
    """Mean and standard deviation over cases; `dice[row]` is by case, then by step."""
    return {
        row: {
            "dice": np.mean(table, axis=0).tolist(),
            "spread": np.std(table, axis=0).tolist(),
        }
        for row, table in dice.items()
    }
