"""What a config may build: instantiating a config runs code, so the list is closed."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from segkit.errors import InputError

ALLOWED = (
    "segkit",
    "torch.optim",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.trainer",
)
"""Packages whose classes a config may name; Hydra's own parts are checked against `HYDRA`."""

HYDRA = ("hydra._internal.core_plugins", "hydra_plugins", "hydra.experimental.callbacks")
BUILDERS = "segkit.models.build"


def check_targets(config: Mapping[str, Any], allowed: tuple[str, ...] = ALLOWED) -> None:
    """Refuse every `_target_` that is not a class (or a builder) of the allowed packages.

    The object itself must be defined there: `segkit.cli.main.os.system` is not.

    Raises:
        InputError: A target is not on the list, or does not exist.
    """
    for key, target in _targets(config):
        where = f"{key}._target_={target!r}"
        if not isinstance(target, str) or not _is_within(target, allowed):
            raise InputError(
                f"{where} is not allowed in a config",
                fix=f"classes of these packages are: {', '.join(allowed)}",
                code="target",
            )
        found = _locate(target)
        if found is None:
            raise InputError(f"{where} does not exist", fix="check its spelling", code="target")
        is_builder = target.startswith(f"{BUILDERS}.") and not isinstance(found, type)
        owner = type(found).__module__ if is_builder else getattr(found, "__module__", "")
        if not (isinstance(found, type) or is_builder) or not _is_within(owner, allowed):
            raise InputError(
                f"{where} is not a class of {', '.join(allowed)}",
                fix="a config may only build classes of these packages",
                code="target",
            )


def _targets(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node["_target_"]
        for name, item in node.items():
            yield from _targets(item, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _targets(item, f"{key}[{index}]")


def _is_within(path: str, allowed: tuple[str, ...]) -> bool:
    # the trainer is exported one level up
    path = "lightning.pytorch.trainer" if path == "lightning.pytorch.Trainer" else path
    return any(path == package or path.startswith(f"{package}.") for package in allowed)


def _locate(target: str) -> object | None:
    """Import the longest module of a dotted path, then follow attributes."""
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    found: Any = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], start=2):
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            # its return value: Hydra loads plugins without naming them in their package
            found = importlib.import_module(".".join(parts[:index]))
        except ModuleNotFoundError:
            return None
    return found
