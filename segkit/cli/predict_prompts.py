"""Prompts on the command line: text and files to interactions of a session."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.cli.arguments.predict import AXES
from segkit.data.labels import read_labels
from segkit.errors import InputError
from segkit.geometry import Space
from segkit.predictors.session import Session

ADDS, REMOVES = 1, 2
"""Voxel values of a drawing in a file."""

Kind = Literal["point", "box", "lasso", "scribble"]
COUNTS: dict[Kind, tuple[int, int]] = {
    "point": (2, 3), "box": (4, 6), "lasso": (2, 3), "scribble": (2, 3)
}  # fmt: skip
"""Numbers of one entry in a picture and in a volume."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One option: `vertices` in the order of the file, or a drawing in the file at `path`."""

    kind: Kind
    vertices: tuple[tuple[float, ...], ...]
    label: int = 1
    name: str | None = None
    path: Path | None = None


class CommandPrompts:
    """All prompts of one command; every input gets the same.

    Raises:
        InputError: An option cannot be read.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.space: Space = args.space
        self.mask: Path | None = args.mask
        self.is_propagated: bool = args.propagate
        self.slices = None if args.slices is None else parse_slices(args.slices)
        self.axis = None if args.axis is None else AXES[args.axis]
        self.zoom: float | None = args.zoom
        kinds: tuple[Kind, ...] = ("box", "lasso", "scribble", "point")
        self.prompts = [parse_prompt(kind, text) for kind in kinds for text in getattr(args, kind)]
        if self.slices is not None and not self.is_propagated:
            raise InputError("--slices is the range of --propagate", fix="add --propagate")

    def __bool__(self) -> bool:
        return bool(self.prompts or self.mask)

    def apply(self, session: Session) -> None:
        """Add everything to the session; prompts with a name go to the object of that name."""
        if self.mask is not None:
            session.add_mask(read_labels(self.mask, session.source) > 0)
        named: dict[str | None, list[Prompt]] = {}
        for prompt in self.prompts:
            named.setdefault(prompt.name, []).append(prompt)
        for name, prompts in named.items():
            one = session if name is None else session.object(name)
            for prompt in prompts:
                self._add(one, prompt)
            clicks = [prompt for prompt in prompts if prompt.kind == "point"]
            if clicks:  # together: one interaction
                points = [self._order(prompt.vertices[0]) for prompt in clicks]
                labels = [prompt.label for prompt in clicks]
                one.add_points(points, labels, space=self.space)
        if self.is_propagated:
            start, stop = self.slices or (None, None)
            for one in session.objects:
                if one.has_prompts:
                    one.propagate(start=start, stop=stop)

    def _add(self, session: Session, prompt: Prompt) -> None:
        points = [self._order(vertex) for vertex in prompt.vertices]
        if prompt.path is not None:
            drawn = read_labels(prompt.path, session.source)
            if not np.isin(drawn, (ADDS, REMOVES)).any():
                raise InputError(
                    f"holds no voxel {ADDS} (adds) or {REMOVES} (removes)", path=prompt.path
                )
            for value, label in ((ADDS, 1), (REMOVES, 0)):
                if (drawn == value).any():
                    session.add_scribble(drawn == value, label)
        elif prompt.kind == "box":
            session.add_box((points[0], points[1]), prompt.label, space=self.space)
        elif prompt.kind == "lasso":
            session.add_lasso(points, prompt.label, space=self.space)
        elif prompt.kind == "scribble":
            session.add_scribble(points, prompt.label, space=self.space)

    def _order(self, point: Sequence[float]) -> Sequence[float]:
        """File order (i, j, k) to array order (k, j, i); millimetres stay (x, y, z)."""
        return point[::-1] if self.space == "voxel" else point


def parse_prompt(kind: Kind, text: str) -> Prompt:
    """Read "NUMBERS[:0|1][@NAME]"; vertices are separated by ";"."""
    if kind == "scribble" and ";" not in text:
        path, _, name = text.partition("@")
        return Prompt(kind, (), name=name or None, path=Path(path))
    rest, _, name = text.partition("@")
    position, _, label = rest.partition(":")
    if label not in ("", "0", "1"):
        raise InputError(f"--{kind} {text}: the label after ':' must be 0 or 1")
    parts = position.split(";") if kind in ("lasso", "scribble") else [position]
    vertices = [_numbers(kind, part) for part in parts if part.strip()]
    if kind == "box":
        half = len(vertices[0]) // 2
        vertices = [vertices[0][:half], vertices[0][half:]]
    return Prompt(kind, tuple(vertices), int(label or 1), name or None)


def parse_slices(text: str) -> tuple[int | None, int | None]:
    """Read "A:B", "A:" or ":B"."""
    first, colon, last = text.partition(":")
    if not colon or not all(part == "" or part.isdecimal() for part in (first, last)):
        raise InputError(f"--slices {text}: expected A:B, first slice and one past the last")
    return (int(first) if first else None, int(last) if last else None)


def _numbers(kind: Kind, text: str) -> tuple[float, ...]:
    counts = COUNTS[kind]
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts:
        raise InputError(
            f"--{kind} {text}: expected {counts[1]} numbers (volumes) or {counts[0]} (pictures)",
            fix=f"separate them by commas; write --{kind}=-1,2,3 if the first is negative",
        )
    return numbers
