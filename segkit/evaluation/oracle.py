"""The simulated user of an evaluation: which objects are prompted, and how.

Prompts come from the reference: an oracle. They are what a careful person would give, never what a
model found, and results that rest on them are labelled so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Integer
from scipy import ndimage

from segkit.errors import InputError
from segkit.prompts.simulate import box_from_mask, extend, first_click, next_click
from segkit.typing import Prompts

Kind = Literal["box", "clicks"]
ObjectKind = Literal["component", "class"]

_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, slots=True)
class OracleProtocol:
    """How the simulated user prompts.

    `kind`: "box" around each object, each side moved by normal noise of `jitter` times the box's
    extent; or "clicks": the first one deepest inside the object, each further one deepest inside
    the largest error of the mask so far, `clicks` in all. `objects`: "component" prompts every
    connected component on a slice (every instance, where the data set tells them apart), "class"
    all pixels of a class as one object. At most `max_objects` of a class are prompted on a slice,
    the largest first.
    """

    kind: Kind = "box"
    clicks: int = 1
    jitter: float = 0.0
    objects: ObjectKind = "component"
    max_objects: int = 128

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("kind", self.kind, get_args(Kind)),
            ("objects", self.objects, get_args(ObjectKind)),
        ):
            if value not in allowed:
                raise InputError(f"{name} must be one of {allowed}, got {value!r}")
        if self.clicks < 1 or self.max_objects < 1:
            raise InputError(
                f"clicks and max_objects must be >= 1, got {self.clicks} and {self.max_objects}"
            )
        if not 0 <= self.jitter < 0.5:
            raise InputError(f"jitter must be in [0, 0.5) of the box, got {self.jitter}")

    @property
    def rounds(self) -> int:
        """Number of interactions."""
        return self.clicks if self.kind == "clicks" else 1

    def describe(self) -> str:
        """One line for tables."""
        what = "object" if self.objects == "component" else "class"
        if self.kind == "box":
            shake = f", jitter {self.jitter:.0%}" if self.jitter else ""
            return f"oracle box per {what} and slice{shake}"
        times = "click" if self.clicks == 1 else "clicks, each on the largest error,"
        return f"{self.clicks} oracle {times} per {what} and slice"

    def first(self, masks: Bool[np.ndarray, "objects rows cols"], rng: torch.Generator) -> Prompts:
        """First prompt of each object, in pixels of the slice."""
        objects = torch.from_numpy(masks)
        if self.kind == "clicks":
            return first_click(objects, rng, place="deepest")
        return box_from_mask(objects, rng, jitter=self.jitter)

    def correct(
        self,
        prompts: Prompts,
        predicted: Bool[np.ndarray, "objects rows cols"],
        masks: Bool[np.ndarray, "objects rows cols"],
        rng: torch.Generator,
    ) -> Prompts:
        """Earlier prompts and one more click per object, padding where there is no error."""
        return extend(
            prompts, next_click(torch.from_numpy(predicted), torch.from_numpy(masks), rng)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One object on one slice: its class value and its pixels."""

    value: int
    mask: Bool[np.ndarray, "rows cols"]


def targets(
    reference: Integer[np.ndarray, "rows cols"],
    values: Mapping[int, str],
    protocol: OracleProtocol,
    instances: Integer[np.ndarray, "rows cols"] | None = None,
) -> list[Target]:
    """Objects on one slice, by class, the largest first.

    `instances` tells touching objects of class 1 apart; without it, components do.
    """
    if instances is not None and protocol.objects == "component":
        return _largest(1, instances, protocol.max_objects)
    found = []
    for value in values:
        mask = reference == value
        if protocol.objects == "class":
            found += [Target(value, mask)] if mask.any() else []
        else:
            components, _ = ndimage.label(mask, structure=_EIGHT)
            found += _largest(value, components, protocol.max_objects)
    return found


def _largest(value: int, parts: Integer[np.ndarray, "rows cols"], most: int) -> list[Target]:
    numbers, sizes = np.unique(parts[parts > 0], return_counts=True)
    order = np.argsort(-sizes, kind="stable")[:most]
    return [Target(value, parts == number) for number in numbers[order]]
