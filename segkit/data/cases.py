"""One case of a data set, and what a layout reader hands over."""

import copyreg
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


def read_only(table: dict[object, object]) -> MappingProxyType[object, object]:
    """View of a table that nobody can change."""
    return MappingProxyType(table)


# read-only tables are part of cases and options, which must reach workers that are not forked
copyreg.pickle(MappingProxyType, lambda table: (read_only, (dict(table),)))

SUFFIXES = (
    *(".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg"),
    *(".tif", ".tiff"),
)
"""Endings that count as image or label in a folder; everything else there is ignored."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case: `image` holds one file per channel, `group` is the subject it belongs to."""

    id: str
    image: tuple[Path, ...]
    label: Path | None
    group: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a layout reader saw; `orphans` are names of labels without an image."""

    cases: Mapping[str, tuple[Case, ...]]
    labels: Mapping[int, str] = field(default_factory=lambda: {1: "object"})
    channels: tuple[str, ...] = ()
    folds: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()
    orphans: tuple[str, ...] = ()
    is_grouped: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to arrange a data set: `fits` looks at names only, `read` lists the cases.

    `read` takes the root and the name of the label folder to use (None: the usual ones).
    """

    name: str
    sketch: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, str | None], Found]


def shorten(names: Sequence[str], most: int = 6) -> str:
    """Comma-separated names, cut after `most`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f", and {rest} more" if rest > 0 else "")


def stem(path: Path) -> str:
    """File name without its image ending (".nii.gz" counts as one)."""
    name = path.name
    ending = next((end for end in SUFFIXES if name.lower().endswith(end)), path.suffix)
    return name[: len(name) - len(ending)] if ending else name


def files_in(folder: Path) -> list[Path]:
    """Images or labels in a folder, sorted by name; hidden files do not count."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()
    )
