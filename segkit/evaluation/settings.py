"""What an evaluation does: plain values, the same from Python and from YAML."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from segkit.errors import InputError
from segkit.evaluation.oracle import OracleProtocol
from segkit.evaluation.statistics import Resampling
from segkit.metrics.surface import Definition

Saliency = Literal["probability", "minmax"]
"""Maps as predicted, or stretched from 0 to 1 picture by picture, as published protocols do."""
Baseline = Literal["box_ellipse", "location_prior"]
CaseNames = Literal["id", "hash"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


@dataclass(frozen=True, slots=True)
class Scoring:
    """Definition of the surface metrics, tolerance of the NSD, and how intervals are made."""

    definition: Definition = "surfel"
    tolerance_mm: float = 1.0
    resampling: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        if self.definition not in get_args(Definition):
            allowed = get_args(Definition)
            raise InputError(f"definition must be one of {allowed}, got {self.definition!r}")
        if not self.tolerance_mm >= 0:
            raise InputError(f"tolerance_mm must be >= 0, got {self.tolerance_mm}")


@dataclass(frozen=True, slots=True)
class RobustnessPlan:
    """Prompts to vary on at most `cases` cases: box jitter (share of the box) and click counts."""

    cases: int = 8
    jitter: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    clicks: tuple[int, ...] = (1, 2, 3, 5, 8)

    def __post_init__(self) -> None:
        if self.cases < 0:
            raise InputError(f"robustness cases must be >= 0, got {self.cases}")
        if any(not 0 <= jitter < 0.5 for jitter in self.jitter):
            raise InputError(f"box jitter must be in [0, 0.5), got {self.jitter}")
        if any(count < 1 for count in self.clicks):
            raise InputError(f"numbers of clicks must be >= 1, got {self.clicks}")


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """All choices of an evaluation.

    `protocol` is the simulated user of promptable rows, `baselines` the trivial rows, `limit` the
    most cases to use (spread over the split), `case_names` "id" as the data set names its cases or
    "hash" where names may identify people. `calibration` compares probabilities with the reference;
    `saliency` adds the metrics of the polyp literature on maps as predicted or stretched.
    """

    scoring: Scoring = field(default_factory=Scoring)
    protocol: OracleProtocol = field(default_factory=OracleProtocol)
    robustness: RobustnessPlan = field(default_factory=RobustnessPlan)
    baselines: tuple[Baseline, ...] = BASELINES
    limit: int | None = None
    case_names: CaseNames = "id"
    seed: int = 0
    calibration: bool = True
    saliency: Saliency | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.baselines) - set(BASELINES)):
            raise InputError(f"unknown baselines {unknown}", fix=f"allowed: {list(BASELINES)}")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be >= 1 case, got {self.limit}", fix="null means all")
        if self.case_names not in get_args(CaseNames):
            allowed = get_args(CaseNames)
            raise InputError(f"case_names must be one of {allowed}, got {self.case_names!r}")
        if self.saliency not in (None, *get_args(Saliency)):
            allowed = get_args(Saliency)
            raise InputError(
                f"saliency must be one of {allowed}, got {self.saliency!r}",
                fix="null leaves it out",
            )
