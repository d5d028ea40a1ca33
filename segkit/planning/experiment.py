"""The experiment file of a plan: settings with their reasons as comments."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from segkit.errors import InputError
from segkit.planning.request import Decision
from segkit.version import VERSION

_WIDTH = 96
_GROUPS = ("/backbone", "/adapter", "/prompt", "/data", "/loss", "/trainer")


def write_experiment(
    path: Path, decisions: Sequence[Decision], document: Mapping[str, object]
) -> Path:
    """Write the file; `document` is kept in it under `plan`, for the run folder and the report.

    Raises:
        InputError: The name does not end in .yaml, or its folder does not exist.
    """
    check_target(path)
    path.write_text("\n".join(_lines(path, decisions, document)) + "\n", encoding="utf-8")
    return path


def check_target(path: Path) -> None:
    """Refuse what is no name for a plan.

    Raises:
        InputError: The name does not end in .yaml, or its folder does not exist.
    """
    if path.suffix != ".yaml":
        raise InputError(
            "a plan is written to a .yaml file", path=path, fix="name it like liver.yaml"
        )
    if not path.parent.is_dir():
        raise InputError(
            "the folder for the plan does not exist", path=path, fix="make it, or name another"
        )


def _lines(
    path: Path, decisions: Sequence[Decision], document: Mapping[str, object]
) -> Iterator[str]:
    settings = {one.key: one for one in decisions}
    yield "# @package _global_"
    yield f"# run: segkit train experiment={path.name} data.root=PATH"
    yield f"# planned by segkit {VERSION}; every setting may be changed here or on the command line"
    if "data.folds" in settings:
        numbers = ",".join(map(str, range(int(str(settings["data.folds"].value)))))
        yield (
            f"# cross-validation: segkit train -m experiment={path.name} data.root=PATH "
            f"data.fold={numbers}"
        )
    yield "defaults:"
    for group in _GROUPS:
        if group in settings:
            yield from _comment(settings[group].reason, 1)
            yield f"  - override {group}: {settings[group].value}"
    yield ""
    yield f"name: {path.stem}"
    tree: dict[str, Any] = {}
    for one in decisions:
        if not one.key.startswith("/"):
            *parents, last = one.key.split(".")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[last] = one
    yield from _branch(tree, 0)
    yield ""
    yield "# what the settings come from; goes into the run folder as plan.json"
    yield f"plan: {json.dumps(document)}"


def _branch(tree: Mapping[str, Any], depth: int) -> Iterator[str]:
    for name, item in tree.items():
        if not isinstance(item, Decision):
            yield f"{'  ' * depth}{name}:"
            yield from _branch(item, depth + 1)
            continue
        yield from _comment(item.reason, depth)
        text = yaml.safe_dump(item.value, default_flow_style=True, width=10_000).strip()
        yield f"{'  ' * depth}{name}: {text.removesuffix('...').strip()}"


def _comment(text: str, depth: int) -> Iterator[str]:
    start = "  " * depth + "# "
    yield from (start + line for line in wrap(text, _WIDTH - len(start)))
