"""The share of the cases that one of several processes takes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from segkit.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count`, from 0: every `count`-th case, whoever takes the others.

    Example:
        >>> Shard.parse("1/3").of(["a", "b", "c", "d", "e"])
        ['b', 'e']
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"there is no part {self.index} of {self.count}", fix="parts count from 0"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "1/4".

        Raises:
            InputError: It is no part of a number of parts.
        """
        if (found := re.fullmatch(r"(\d+)/(\d+)", text)) is None:
            raise InputError(f"expected a part such as 0/4, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def under_torchrun(cls, environment: Mapping[str, str]) -> "Shard | None":
        """The part of a process that `torchrun` started; None for any other process."""
        if "TORCHELASTIC_RUN_ID" not in environment:
            return None
        return cls(int(environment["RANK"]), int(environment["WORLD_SIZE"]))

    def of(self, items: Sequence[T]) -> list[T]:
        """The items of this part."""
        return list(items[self.index :: self.count])

    @property
    def suffix(self) -> str:
        """What files of this part are called besides; nothing for the whole."""
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"
