"""Settings of the saliency stage, and of what is made of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from segkit.errors import InputError

Noise = Literal["unit", "channel"]
NAMED_THRESHOLDS = ("otsu",)


@dataclass(frozen=True, slots=True)
class SaliencySettings:
    """How the information bottleneck is optimised.

    `layer` counts blocks from 0, the bottleneck lies behind it; negative numbers count from the
    last. `beta` weighs the information that passes against the fit to the text. `copies` noise
    samples per step, `steps` steps of Adam at `rate`. `noise` is drawn from N(0, 1) ("unit") or
    with mean and deviation of each channel over the tokens of the image ("channel").
    """

    layer: int = 7
    beta: float = 0.1
    steps: int = 10
    rate: float = 1.0
    copies: int = 10
    noise: Noise = "unit"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.copies < 1:
            raise InputError(f"steps and copies must be >= 1, got {self.steps}, {self.copies}")
        if self.beta < 0 or self.rate <= 0:
            raise InputError(f"beta must be >= 0 and rate > 0, got {self.beta}, {self.rate}")
        if self.noise not in get_args(Noise):
            raise InputError(f"noise {self.noise!r} is not one of {get_args(Noise)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "SaliencySettings":
        """Rebuild what `to_dict` wrote.

        Raises:
            InputError: An entry is unknown, or its value is not allowed.
        """
        _check_keys(cls, value)
        return cls(**value)


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """How a saliency map becomes regions.

    `threshold`: "otsu" (in one dimension the same split as k-means with two clusters) or a share
    of the range of the map. `keep` is the number of components, best first by `rank`: their mean
    saliency ("confidence") or size ("area"). Components smaller than the share `smallest` of the
    image are noise.
    """

    threshold: str | float = "otsu"
    keep: int = 1
    rank: Literal["confidence", "area"] = "confidence"
    smallest: float = 0.001

    def __post_init__(self) -> None:
        value = self.threshold
        is_number = isinstance(value, int | float) and 0 < value < 1
        if value not in NAMED_THRESHOLDS and not is_number:
            raise InputError(f"threshold must be one of {NAMED_THRESHOLDS} or in (0, 1): {value!r}")
        if self.keep < 1 or not 0 <= self.smallest < 1:
            raise InputError(
                f"keep must be >= 1 and smallest in [0, 1), got {self.keep}, {self.smallest}"
            )
        if self.rank not in ("confidence", "area"):
            raise InputError(f"rank {self.rank!r} is not one of ('confidence', 'area')")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "RegionSettings":
        """Rebuild what `to_dict` wrote.

        Raises:
            InputError: An entry is unknown, or its value is not allowed.
        """
        _check_keys(cls, value)
        return cls(**value)


def _check_keys(cls: type, value: Mapping[str, Any]) -> None:
    allowed = sorted(field.name for field in fields(cls))
    if unknown := sorted(set(value) - set(allowed)):
        raise InputError(f"settings have unknown entries {unknown}; allowed: {allowed}")
