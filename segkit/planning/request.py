"""What a user may ask of a plan, and one decision of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from segkit.data.datamodule import SourceSpec
from segkit.errors import InputError
from segkit.planning.choices import MODELS, PromptMode


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is given; everything left at None is decided.

    `memory_gb` is what training may use of the `device`, `minutes` its wall time, `cases` how many
    training cases are measured.
    """

    model: str = "nano"
    prompt: PromptMode | None = None
    memory_gb: float | None = None
    device: str = "auto"
    minutes: float | None = None
    cases: int = 100
    source: SourceSpec = field(default_factory=SourceSpec)

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise InputError(f"a plan cannot be made for {self.model!r}", fix=f"allowed: {MODELS}")
        if self.prompt is not None and self.prompt not in get_args(PromptMode):
            raise InputError(f"unknown prompt {self.prompt!r}", fix=f"allowed: {PromptMode}")
        if self.is_supervised and self.prompt not in (None, "automatic"):
            raise InputError(
                f"{self.model} takes no prompts, got {self.prompt!r}", fix="leave --prompt out"
            )
        for name, value in (("memory_gb", self.memory_gb), ("minutes", self.minutes)):
            if value is not None and value <= 0:
                raise InputError(f"{name} must be > 0, got {value}")
        if self.cases < 1:
            raise InputError(f"cases must be >= 1, got {self.cases}")

    @property
    def is_supervised(self) -> bool:
        """Whether a network is trained as a whole instead of an adapter on a frozen one."""
        return self.model != "nano"


@dataclass(frozen=True, slots=True)
class Decision:
    """One setting of the experiment, by dotted key, and why it is what it is."""

    key: str
    value: object
    reason: str

    def to_dict(self) -> Mapping[str, object]:
        """Plain values for JSON."""
        return {"key": self.key, "value": self.value, "reason": self.reason}
