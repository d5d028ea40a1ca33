"""The folds of a cross-validation as one run: found in the folder of a sweep, and summed up."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segkit.data.atomic import atomic_file

FOLDS = "folds.json"
_log = logging.getLogger(__name__)


def folds_in(sweep: Path) -> list[Path]:
    """Run folders of a sweep over `data.fold`, by fold; none for any other folder.

    A sweep that changed more than the fold is no cross-validation.
    """
    found = {run: config for run in sweep.glob("*/") if (config := _config(run)) is not None}
    numbers = {run: _fold(config) for run, config in found.items()}
    known = [number for number in numbers.values() if number is not None]
    if len(known) < 2 or len(set(known)) < len(known) or len(known) < len(found):
        return []
    others = {json.dumps(_without_fold(config), sort_keys=True) for config in found.values()}
    return sorted(found, key=lambda run: numbers[run] or 0) if len(others) == 1 else []


def merge_folds(sweep: Path) -> None:
    """Write what the trainings of a cross-validation reached into one file, and say it."""
    folds = folds_in(sweep)
    if not folds:
        return
    rows = [_row(run) for run in folds]
    names = sorted(set.intersection(*(set(row["metrics"]) for row in rows)))
    figures = {
        name: {
            "mean": float(np.mean([row["metrics"][name] for row in rows])),
            "sd": float(np.std([row["metrics"][name] for row in rows], ddof=1)),
        }
        for name in names
    }
    document = {"format": 1, "folds": rows, "best_validation": figures}
    with atomic_file(sweep / FOLDS) as file:
        file.write((json.dumps(document, indent=2) + "\n").encode())
    told = ", ".join(
        f"{name} {one['mean']:.4f} (SD {one['sd']:.4f})" for name, one in figures.items()
    )
    _log.info("%s: %d folds, best validation: %s", sweep, len(folds), told)
    _log.info("all cases in one table: segkit eval run=%s split=val data.root=PATH", sweep)


def _row(run: Path) -> dict[str, Any]:
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    result = facts.get("result", {})
    return {
        "fold": _fold(_config(run) or {}),
        "run": run.name,
        "steps": result.get("steps"),
        "metrics": result.get("metrics", {}),
    }


def _config(run: Path) -> dict[str, Any] | None:
    path = run / "config.yaml"
    if not path.is_file():
        return None
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) else None


def _fold(config: Mapping[str, Any]) -> int | None:
    split = ((config.get("data") or {}).get("slices") or {}).get("split") or {}
    number = split.get("fold")
    return number if isinstance(number, int) else None


def _without_fold(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings that the folds of one cross-validation share."""
    text = json.dumps(config)
    whole: dict[str, Any] = json.loads(text)
    for part in (whole["data"], whole["data"]["slices"]["split"]):
        part.pop("fold", None)
    whole.pop("run", None)
    return whole
