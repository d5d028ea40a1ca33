"""A closer look: the square window around an object that the model sees instead of the slice."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segkit.errors import InputError

LEAST_PIXELS = 16
"""Windows are never narrower than this; a click has no extent."""

Window = tuple[slice, slice]
"""Rows and columns of a slice."""


@dataclass(frozen=True, slots=True)
class Zoom:
    """How a prompted object is looked at closely.

    The window is `factor` times as wide as the longest side of the box around the object and
    becomes a model input of `size` x `size` pixels. Small objects gain most: SAM's masks have a
    quarter of the pixels of its input.
    """

    factor: float = 2.0
    size: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.factor < np.inf or self.size < 1:
            raise InputError(
                f"zoom needs a factor >= 1 and a size >= 1 pixel, got {self.factor} and {self.size}"
            )

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any] | None) -> "Zoom | None":
        """Rebuild and check what `to_dict` wrote; None stays None.

        Raises:
            InputError: An entry is unknown, or its value is not allowed.
        """
        if value is None:
            return None
        if unknown := sorted(set(value) - {"factor", "size"}):
            raise InputError(f"zoom has unknown entries {unknown}; allowed: ['factor', 'size']")
        return cls(float(value.get("factor", 2.0)), int(value.get("size", 128)))


def window_around(
    first: Sequence[float],
    last: Sequence[float],
    shape: Sequence[int],
    *,
    factor: float,
    spacing_mm: Sequence[float] = (1.0, 1.0),
    shift: Sequence[float] = (0.0, 0.0),
) -> Window:
    """Square (in mm) around the half-open box of pixels from `first` to `last`.

    It is moved into the slice where it sticks out, and cut where it is larger than the slice.
    `shift` moves it off the centre, in shares of what lies around the box.

    Example:
        >>> window_around((40, 10), (50, 30), (100, 200), factor=2)
        (slice(25, 65, None), slice(0, 40, None))
    """
    extent = np.subtract(last, first)
    side_mm = factor * float((extent * spacing_mm).max())
    parts = []
    for axis in range(2):
        size = max(side_mm / spacing_mm[axis], float(LEAST_PIXELS), float(extent[axis]))
        middle = (first[axis] + last[axis]) / 2 + shift[axis] * (size - extent[axis]) / 2
        count = min(round(size), shape[axis])
        start = round(middle - size / 2)
        start = min(max(start, int(np.ceil(last[axis])) - count), int(np.floor(first[axis])))
        start = min(max(start, 0), shape[axis] - count)
        parts.append(slice(start, start + count))
    return (parts[0], parts[1])
