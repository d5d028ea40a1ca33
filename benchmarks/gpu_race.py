"""Races of whole models on one device: checked first, then timed in turns.

`benchmarks.gpu` has the same for single operators, whose definition runs in float64. A whole model
is checked against its own float32 result instead. On a CPU everything runs at tiny sizes with a
clock, to be tested.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.gpu import NOT_RUN, Row, clocked, median_and_spread

Call = Callable[[int], Tensor]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where races are run; `dtype` is what ours computes in. A dry bench takes tiny sizes."""

    device: torch.device
    dtype: torch.dtype
    is_dry: bool = False
    rounds: int = 20

    @classmethod
    def dry(cls) -> "Bench":
        """Tiny sizes on the CPU in float32."""
        return cls(torch.device("cpu"), torch.float32, is_dry=True, rounds=3)

    @property
    def limit(self) -> float:
        """Largest difference from the float32 result, as a share of its norm (rule H2)."""
        return 1e-3 if self.dtype == torch.float32 else 2e-2

    def low(self) -> torch.autocast:
        """Context in which a whole model computes in `dtype`; float32 stays what it is."""
        # what is captured in a graph must not depend on a cache of casts
        is_on = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if is_on else torch.bfloat16,
                              enabled=is_on, cache_enabled=False)  # fmt: skip

    def peak_mib(self, call: Callable[[], object]) -> float | None:
        """Memory of a call over what was held before; None without a CUDA device."""
        if self.device.type != "cuda":
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


@dataclass(frozen=True, slots=True)
class Race:
    """One row: calls by contender, `segkit` among them; each takes the number of the turn.

    `want` is the result of turn 0. `count` items are made per call, `unit` is their rate. `absent`
    says of peers why they are not here. `warm` turns come before those that are timed.
    """

    row: str
    what: str
    calls: Mapping[str, Call]
    want: Tensor
    target: str
    count: int = 1
    unit: str = "img/s"
    limit: float | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    warm: int = 3


def difference(got: Tensor, want: Tensor) -> float:
    """Norm of the difference as a share of the norm of `want`; what is not finite is all wrong."""
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    if got.shape != want.shape or not torch.isfinite(got).all():
        return float("inf")
    return float((got - want).norm() / want.norm().clamp(min=1e-12))


def run(race: Race, bench: Bench) -> list[Row]:
    """Check every contender, then time those that are right, in turns."""
    base: Row = {"row": race.row, "what": race.what}
    rows = [_absent(base, name, why) for name, why in race.absent.items()]
    limit = bench.limit if race.limit is None else race.limit
    right: dict[str, float] = {}
    for name, call in race.calls.items():
        try:
            off = difference(call(0), race.want)
        except Exception as reason:  # a contender that does not run is a row of the table
            rows.append(_absent(base, name, f"{type(reason).__name__}: {str(reason)[:120]}"))
            continue
        if off > limit:
            rows.append(_absent(base, name, f"wrong by {off:.1e}, allowed {limit:.0e}"))
        else:
            right[name] = off
    samples: dict[str, list[float]] = {name: [] for name in right}
    for turn in range(bench.rounds + race.warm):
        for name in right:
            call = race.calls[name]
            took = clocked(lambda c=call, t=turn: c(t), bench.device)
            if turn >= race.warm:
                samples[name].append(took)
    ours = statistics.median(samples["segkit"]) if "segkit" in right else None
    return [
        *(_timed(race, name, samples[name], off, ours) for name, off in right.items()),
        *rows,
    ]


def _timed(race: Race, name: str, samples: list[float], off: float, ours_ms: float | None) -> Row:
    median, spread = median_and_spread(samples)
    is_ours = name == "segkit"
    return {
        "row": race.row, "what": race.what, "contender": name, "rate": 1e3 * race.count / median,
        "unit": race.unit, "median ms": median, "spread ms": spread,
        "p99 ms": statistics.quantiles(samples, n=100, method="inclusive")[-1],
        "peer / segkit": None if is_ours or ours_ms is None else median / ours_ms,
        "target": race.target if is_ours else None, "off by": off,
    }  # fmt: skip


def _absent(base: Row, name: str, why: str) -> Row:
    return {**base, "contender": name, "median ms": NOT_RUN, "note": why}
