"""What a run folder says about its training, reduced to what may be published."""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segkit.errors import InputError

Line = dict[str, list[float]]

_PRIVATE = {
    *(
        "root",
        "run",
        "runs",
        "path",
        "paths",
        "dir",
        "folder",
        "checkpoint",
        "ckpt",
        "file",
        "host",
    ),
    *("name", "tags"),
}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Learning `curves` by panel and line, settings by dotted key, and facts of the training.

    `plan` lists the settings of `segkit plan` with value and reason, `fingerprint` what it found.

    Nothing in it names a file, a folder or a machine.
    """

    curves: Mapping[str, Mapping[str, Line]] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    plan: tuple[tuple[str, str, str], ...] = ()
    fingerprint: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """Read what there is; missing files leave their part empty.

        Raises:
            InputError: A file is damaged.
        """
        planned = _json(folder / "plan.json")
        return cls(
            curves=_curves(folder / "metrics.csv"),
            config=_config(folder / "config.yaml"),
            facts=_facts(folder / "environment.json"),
            plan=_plan(planned),
            fingerprint=_fingerprint(planned),
        )


def _curves(path: Path) -> dict[str, dict[str, Line]]:
    """Loss and Dice against the step; other columns are for other tools."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    panels: dict[str, dict[str, Line]] = {}
    for column in rows[0] if rows else ():
        panel = "Loss" if "loss" in column else "Validation Dice" if "dice" in column else None
        if panel is None:
            continue
        try:
            pairs = [(float(row["step"]), float(row[column])) for row in rows if row[column]]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"column {column!r} holds something other than numbers",
                path=path,
                fix="restore the file, or remove it to leave the curves out",
            ) from error
        if pairs:
            name = column.removeprefix("val/") if panel != "Loss" else column.replace("/", " ")
            line = {"x": [x for x, _ in pairs], "y": [y for _, y in pairs]}
            panels.setdefault(panel, {})[name.replace("_", " ")] = line
    return panels


def _config(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(
            "this is not a readable YAML file", path=path, fix="restore it, or remove it"
        ) from error
    return {
        key: str(item)
        for key, item in _flatten(value).items()
        if not (_PRIVATE & set(re.split(r"[^a-z]+", key.lower())) or _is_path(item))
    }


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            "this is not a readable JSON file", path=path, fix="restore it, or remove it"
        ) from error
    return value if isinstance(value, dict) else {}


def _plan(document: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Key, value and reason of each decision; how files are found says nothing about learning."""
    return tuple(
        (str(one["key"]).removeprefix("/"), str(one["value"]), str(one["reason"]))
        for one in document.get("decisions", ())
        if not _is_path(one["value"])
    )


def _fingerprint(document: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of a data set; damaged cases are counted, since names may identify people."""
    found = dict(document.get("fingerprint", {}))
    if "damaged" in found:
        found["damaged"] = len(found["damaged"])
    flat = {key: str(item) for key, item in _flatten(found).items()}
    return {key: text for key, text in flat.items() if not _is_path(text)}


def _facts(path: Path) -> dict[str, str]:
    value = _json(path)
    chosen = ("device", "threads", "python", "git_commit", "data", "seed")
    facts = {
        f"training {key}": str(value[key])
        for key in chosen
        if value.get(key) is not None and not _is_path(value[key])
    }
    packages = value.get("packages")
    if isinstance(packages, Mapping):
        facts["training packages"] = ", ".join(f"{name} {v}" for name, v in packages.items())
    return facts


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _is_path(value: object) -> bool:
    """Whether a value, or a part of it, looks like a file name."""
    return isinstance(value, str) and ("/" in value or "\\" in value)
