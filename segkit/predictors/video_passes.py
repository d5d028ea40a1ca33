"""Which frames a pass visits."""

from collections.abc import Iterator
from itertools import count as numbers
from numbers import Integral

from segkit.errors import InputError
from segkit.memory.bank import Direction


def whole(frame: object) -> int:
    """A frame number as a user gave it.

    Raises:
        InputError: It is no whole number.
    """
    if not isinstance(frame, Integral):
        raise InputError(f"frames have whole numbers, got {frame!r}", code="no_frame")
    return int(frame)


def visited(
    first: int, count: int | None, direction: Direction, length: int | None
) -> Iterator[int]:
    """Frames from `first` on, at most `count`, to either end; `length` None has no end yet.

    Raises:
        InputError: The count is negative.
    """
    if count is not None and count < 0:
        raise InputError(f"count must be >= 0 frames, got {count}", fix="None means all")
    end = -1 if direction < 0 else length
    if count is not None:
        limit = first + direction * count
        end = limit if end is None else (max(limit, end) if direction < 0 else min(limit, end))
    if end is None:
        return numbers(first)
    return iter(range(first, end, direction))
