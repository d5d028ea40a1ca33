"""How grey values become numbers from 0 to 1."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped

from segkit.errors import InputError

IntensityKind = Literal["full", "percentile", "window"]

MAX_SAMPLES = 2**20  # voxels looked at for percentiles; a fixed stride, so that runs repeat
FULL_RANGE = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True, slots=True)
class Intensity:
    """How grey values become [0, 1].

    "full": the range of the data type (uint8 and uint16 images); "percentile": `low` and `high`
    percent of the case; "window": fixed `windows` [(low, high), ...] in the units of the file.
    """

    kind: IntensityKind = "percentile"
    low: float = 0.5
    high: float = 99.5
    windows: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(IntensityKind):
            raise InputError(f"intensity {self.kind!r} is not one of {get_args(IntensityKind)}")
        if not 0 <= self.low < self.high <= 100:
            raise InputError(
                f"intensity percentiles must be 0 <= low < high <= 100, got {self.low}, {self.high}"
            )
        if (self.kind == "window") != bool(self.windows):
            raise InputError(f"intensity {self.kind!r} with the windows {self.windows} is no pair")
        if any(not low < high for low, high in self.windows):
            raise InputError(f"each window must be (low, high) with low < high: {self.windows}")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        windows = [list(window) for window in self.windows]
        return {"kind": self.kind, "low": self.low, "high": self.high, "windows": windows}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Intensity":
        """Rebuild and check what `to_dict` wrote."""
        check_keys(cls, value, "intensity")
        windows = tuple((float(low), float(high)) for low, high in value.get("windows", ()))
        return cls(**{**value, "windows": windows})

    def ranges(
        self, stack: Shaped[np.ndarray, "..."], path: Path | None = None
    ) -> tuple[tuple[float, float], ...]:
        """Grey values (low, high) that become 0 and 1, one for all channels or one for each.

        Raises:
            InputError: "full" is asked of voxels other than uint8, uint16 and bool, or percentiles
                of voxels with NaN.
        """
        dtype = stack.dtype
        if self.kind == "window":
            return self.windows
        if self.kind == "full":
            if dtype.name not in FULL_RANGE:
                raise InputError(
                    f"intensity 'full' needs uint8 or uint16 pixels, got {dtype.name}",
                    fix="use a model with intensity 'percentile' or 'window'",
                    path=path,
                )
            return ((0.0, FULL_RANGE[dtype.name]),)
        low, high = np.percentile(_sampled(stack), [self.low, self.high])
        if not np.isfinite([low, high]).all():
            raise InputError("holds NaN or Inf voxels", fix="say --nan fill=V", path=path)
        return ((float(low), float(high)),)


def to_unit(
    plane: Float[np.ndarray, "rows columns"], span: tuple[float, float]
) -> Float[np.ndarray, "rows columns"]:
    """Map the grey values of a range to [0, 1] and clip the others."""
    low, high = span
    if high <= low:
        return np.zeros_like(plane)
    return np.clip((plane - low) / (high - low), 0.0, 1.0, dtype=np.float32)


def check_keys(cls: type, value: Mapping[str, Any], name: str) -> None:
    """Refuse entries that are no fields of a dataclass.

    Raises:
        InputError: There are some.
    """
    allowed = sorted(field.name for field in fields(cls))
    if unknown := sorted(set(value) - set(allowed)):
        raise InputError(f"{name} has unknown entries {unknown}; allowed: {allowed}")


def _sampled(stack: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """At most `MAX_SAMPLES` voxels on a regular lattice; all of them if there are fewer."""
    steps = [1, 1, 1]
    while np.prod(counts := [-(-n // s) for n, s in zip(stack.shape, steps, strict=False)]) > (
        MAX_SAMPLES
    ):
        steps[int(np.argmax(counts))] += 1
    return stack[tuple(slice(None, None, step) for step in steps)]
