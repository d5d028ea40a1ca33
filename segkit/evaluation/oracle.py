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
from segkit.prompts.simulate import Place, box_from_mask, extend, first_click, next_click
from segkit.typing import Prompts

Kind = Literal["box", "clicks"]
ObjectKind = Literal["component", "class"]
Per = Literal["slice", "volume"]
User = Literal["corrects", "draws"]


@dataclass(frozen=True, slots=True)
class OracleProtocol:
    """How the simulated user prompts.

    `kind`: "box" around each object, each side moved by normal noise of `jitter` times the box's
    extent; or "clicks": the first one deepest inside the object, each further one deepest inside
    the largest error of the mask so far, `clicks` in all. `objects`: "component" prompts every
    connected component (every instance, where the data set tells them apart), "class" all voxels
    of a class as one object; None is components on slices, classes in volumes. At most
    `max_objects` of a class are prompted, the largest first.

    `per` "slice" prompts every slice that shows an object; "volume" prompts objects in the whole
    volume, and `counts` are the numbers of clicks that get a row each in the tables. `user`
    "draws" clicks on any voxel of the object, whatever the mask, as 3DSAM-adapter is tested
    (released code, `num_prompts`).
    """

    kind: Kind = "box"
    clicks: int = 1
    jitter: float = 0.0
    objects: ObjectKind | None = None
    max_objects: int = 128
    per: Per = "slice"
    counts: tuple[int, ...] = (1, 3, 5)
    user: User = "corrects"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("kind", self.kind, get_args(Kind)),
            ("objects", self.objects, (None, *get_args(ObjectKind))),
            ("per", self.per, get_args(Per)),
            ("user", self.user, get_args(User)),
        ):
            if value not in allowed:
                raise InputError(f"{name} must be one of {allowed}, got {value!r}")
        if self.clicks < 1 or self.max_objects < 1:
            raise InputError(
                f"clicks and max_objects must be >= 1, got {self.clicks} and {self.max_objects}"
            )
        if not self.counts or any(count < 1 for count in self.counts):
            raise InputError(
                f"counts must be numbers of clicks >= 1, got {list(self.counts)}",
                fix="[1, 3, 5] is usual",
            )
        if not 0 <= self.jitter < 0.5:
            raise InputError(f"jitter must be in [0, 0.5) of the box, got {self.jitter}")

    @property
    def rounds(self) -> int:
        """Number of interactions."""
        return self.clicks if self.kind == "clicks" else 1

    @property
    def grouping(self) -> ObjectKind:
        """What one object is."""
        return self.objects or ("component" if self.per == "slice" else "class")

    def describe(self) -> str:
        """One line for tables."""
        what = "object" if self.grouping == "component" else "class"
        if self.kind == "box":
            shake = f", jitter {self.jitter:.0%}" if self.jitter else ""
            return f"oracle box per {what} and {self.per}{shake}"
        further = "drawn from the object" if self.user == "draws" else "each on the largest error"
        times = "click" if self.clicks == 1 else f"clicks, {further},"
        return f"{self.clicks} oracle {times} per {what} and {self.per}"

    def first(self, masks: Bool[np.ndarray, " objects *size"], rng: torch.Generator) -> Prompts:
        """First prompt of each object, in voxels of the masks."""
        objects = torch.from_numpy(masks)
        if self.kind == "clicks":
            place: Place = "random" if self.user == "draws" else "deepest"
            return first_click(objects, rng, place=place)
        return box_from_mask(objects, rng, jitter=self.jitter)

    def correct(
        self,
        prompts: Prompts,
        predicted: Bool[np.ndarray, " objects *size"],
        masks: Bool[np.ndarray, " objects *size"],
        rng: torch.Generator,
    ) -> Prompts:
        """Earlier prompts and one more click per object, padding where there is no error."""
        return extend(prompts, self.next(predicted, masks, rng))

    def next(
        self,
        predicted: Bool[np.ndarray, " objects *size"],
        masks: Bool[np.ndarray, " objects *size"],
        rng: torch.Generator,
    ) -> Prompts:
        """One more click per object, padding where there is no error to correct."""
        objects = torch.from_numpy(masks)
        if self.user == "draws":
            return first_click(objects, rng, place="random")
        return next_click(torch.from_numpy(predicted), objects, rng)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """One object on one slice or in a volume: its class value and its voxels."""

    value: int
    mask: Bool[np.ndarray, "*size"]


def targets(
    reference: Integer[np.ndarray, "*size"],
    values: Mapping[int, str],
    protocol: OracleProtocol,
    instances: Integer[np.ndarray, "*size"] | None = None,
) -> list[Target]:
    """Objects on one slice or in a volume, by class, the largest first.

    `instances` tells touching objects of class 1 apart; without it, components do.
    """
    if instances is not None and protocol.grouping == "component":
        return _largest(1, instances, protocol.max_objects)
    found = []
    for value in values:
        mask = reference == value
        if protocol.grouping == "class":
            found += [Target(value, mask)] if mask.any() else []
        else:
            # connected over corners
            components, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
            found += _largest(value, components, protocol.max_objects)
    return found


def _largest(value: int, parts: Integer[np.ndarray, "*size"], most: int) -> list[Target]:
    numbers, sizes = np.unique(parts[parts > 0], return_counts=True)
    order = np.argsort(-sizes, kind="stable")[:most]
    return [Target(value, parts == number) for number in numbers[order]]
