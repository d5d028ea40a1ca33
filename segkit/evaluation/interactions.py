"""What simulated users did in volumes, click by click, and figures made from it."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from segkit.evaluation.statistics import Resampling, mean_interval

TARGETS = (0.8, 0.85, 0.9)
"""Dice that an object should reach; how many clicks that takes is reported."""


@dataclass(frozen=True, slots=True)
class Act:
    """One prompt on one object, and the mask it led to.

    `label` is 1 for a click that adds, 0 for one that removes, 2 for a box; `k`, `j`, `i` are the
    voxel clicked, or the middle of the box. `coverage` is the share of the object's voxels that
    the model has looked at: beyond it, nothing can be found. Seconds include encoding.
    """

    case: str
    group: str
    value: int
    object: int
    number: int
    label: int
    k: float
    j: float
    i: float
    dice: float
    coverage: float
    seconds: float


class Diary:
    """Acts of one model in the order they happened; a case that is repeated counts once."""

    def __init__(self) -> None:
        self._acts: dict[tuple[str, int, int, int], Act] = {}

    def add(self, act: Act) -> None:
        """Record one prompt."""
        self._acts[act.case, act.value, act.object, act.number] = act

    @property
    def acts(self) -> tuple[Act, ...]:
        """All prompts."""
        return tuple(self._acts.values())

    def summarise(self, most: int, resampling: Resampling) -> dict[str, object]:
        """Clicks needed, coverage and time, over objects, with intervals over subjects.

        `most` clicks were allowed; an object that never reached the Dice counts with all of them.
        """
        if not self.acts:
            return {"objects": 0}
        objects: dict[tuple[str, int, int], list[Act]] = {}
        for act in self.acts:
            objects.setdefault((act.case, act.value, act.object), []).append(act)
        groups = [acts[0].group for acts in objects.values()]
        coverage = [acts[-1].coverage for acts in objects.values()]
        return {
            "objects": len(objects),
            "clicks_allowed": most,
            "clicks_to_dice": {
                f"{target:g}": _needed(list(objects.values()), groups, target, most, resampling)
                for target in TARGETS
            },
            "coverage": mean_interval(coverage, groups, resampling=resampling).to_dict(),
            "seconds_per_click": {
                "first": round(float(np.median([acts[0].seconds for acts in objects.values()])), 4),
                "later": _median([a.seconds for acts in objects.values() for a in acts[1:]]),
            },
        }


def to_csv(diaries: Mapping[str, Diary]) -> str:
    """One line per act, the row of the table first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", *(field.name for field in fields(Act))))
    for row, diary in diaries.items():
        for act in diary.acts:
            cells = (f"{cell:.6g}" if isinstance(cell, float) else cell for cell in astuple(act))
            writer.writerow((row, *cells))
    return text.getvalue()


def _needed(
    objects: Sequence[Sequence[Act]],
    groups: Sequence[str],
    target: float,
    most: int,
    resampling: Resampling,
) -> dict[str, object]:
    counts = [next((a.number for a in acts if a.dice >= target), None) for acts in objects]
    needed = [most if count is None else count for count in counts]
    reached = sum(count is not None for count in counts) / len(counts)
    return {**mean_interval(needed, groups, resampling=resampling).to_dict(), "reached": reached}


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 4) if values else None
