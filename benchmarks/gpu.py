"""Harness of the GPU tables: contests on one device, behind a gate of correctness.

Rules H1 to H11: contenders run in turns in one process, on rotated inputs that do not fit the
cache; times are those of CUDA events; no ratio is printed for a contender whose output is wrong;
floors come from the bandwidth and the products that this card reaches in the same run. On a CPU the
same code runs with a clock, to be tested.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Call = Callable[..., Tensor]
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}
CACHE_BYTES = 128 << 20  # more than twice the L2 of an H200
NOT_RUN = "not run"
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a card reaches: bytes per second copied (read and written), products per second."""

    bytes_per_s: float
    flop_per_s: float

    def floor_ms(self, n_bytes: float, flop: float) -> float:
        """Least time of an operation that must move and multiply that much."""
        return 1e3 * max(n_bytes / self.bytes_per_s, flop / self.flop_per_s)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: contenders compute the same from `inputs`; `segkit` is one of them.

    `exact` is the definition, run in float64 on the CPU or the device. `grads` says whether forward
    and backward are timed, `n_bytes` and `flop` what a pass must move and multiply. `absent` says
    of peers why they are not here.
    """

    row: str
    what: str
    inputs: Sequence[Tensor]
    contenders: Mapping[str, Call]
    exact: Call
    target: str
    n_bytes: float = 0.0
    flop: float = 0.0
    grads: bool = False
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """Times of one contender in milliseconds, or the reason why there are none."""

    samples_ms: tuple[float, ...] = ()
    compile_s: float = 0.0
    error: float = 0.0
    problem: str = ""

    @property
    def median_ms(self) -> float:
        """Middle of all samples."""
        return median_and_spread(self.samples_ms)[0]

    @property
    def spread_ms(self) -> float:
        """Between the 20th and the 80th percentile."""
        return median_and_spread(self.samples_ms)[1]


def median_and_spread(samples: Sequence[float]) -> tuple[float, float]:
    """Middle, and the width from the 20th to the 80th percentile."""
    cuts = statistics.quantiles(samples, n=5)
    return statistics.median(samples), cuts[3] - cuts[0]


def anchors(device: torch.device) -> Anchors:
    """Measure the card with random numbers: zeros multiply faster than data."""
    side, size = (8192, 1 << 28) if device.type == "cuda" else (128, 1 << 16)
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    source = torch.randn(size // 4, device=device)
    sink = torch.empty_like(source)
    product = min(clocked(lambda: a @ a, device) for _ in range(10))
    copy = min(clocked(lambda: sink.copy_(source), device) for _ in range(10))
    return Anchors(2 * size / copy * 1e3, 2 * side**3 / product * 1e3)


def clocked(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call on the device."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def contest(case: Case, device: torch.device, *, rounds: int = 20) -> dict[str, Result]:
    """Check each contender, then time those that are right, in turns."""
    results: dict[str, Result] = {name: Result(problem=why) for name, why in case.absent.items()}
    copies = _rotated(case.inputs, device)
    ready: dict[str, tuple[float, float]] = {}
    want = _run(case.exact, [x.double() for x in case.inputs], case.grads)
    for name, call in case.contenders.items():
        start = time.perf_counter()
        try:
            error = max(_error(case, call, want))
        except Exception as reason:  # a peer that does not run is a row of the table
            results[name] = Result(problem=f"{type(reason).__name__}: {str(reason)[:120]}")
            continue
        if error > LIMITS[case.inputs[0].dtype]:
            results[name] = Result(error=error, problem=f"wrong by {error:.1e}")
        else:
            ready[name] = (time.perf_counter() - start, error)
    samples: dict[str, list[float]] = {name: [] for name in ready}
    for number in range(rounds + 3):
        for name in ready:
            given = copies[number % len(copies)]
            took = clocked(lambda n=name, x=given: _run(case.contenders[n], x, case.grads), device)
            if number >= 3:  # warm
                samples[name].append(took)
    for name, (compile_s, error) in ready.items():
        results[name] = Result(tuple(samples[name]), compile_s, error)
    return results


def rows_of(case: Case, results: Mapping[str, Result], limits: Anchors) -> list[Row]:
    """Rows of the table: ours with its part of the floor, peers with their ratio to ours."""
    ours, floor = results["segkit"], limits.floor_ms(case.n_bytes, case.flop)
    rows: list[Row] = []
    for name, one in results.items():
        row: Row = {"row": case.row, "what": case.what, "contender": name}
        if one.problem:
            rows.append({**row, "median ms": NOT_RUN, "note": one.problem})
            continue
        ratio = None if ours.problem or name == "segkit" else one.median_ms / ours.median_ms
        is_floor = name == "segkit" and floor > 0
        rows.append(
            {
                **row, "median ms": one.median_ms, "spread ms": one.spread_ms, "floor ms": floor,
                "floor / segkit": floor / one.median_ms if is_floor else None,
                "peer / segkit": ratio, "target": case.target if name == "segkit" else None,
                "first call s": one.compile_s, "error": one.error,
            }
        )  # fmt: skip
    return rows


def absent_rows(rows: Sequence[tuple[str, str, str]], command: str) -> list[Row]:
    """Rows whose hardware is not here: never an old value (rule H10)."""
    return [
        {"row": row, "what": what, "contender": "segkit", "median ms": NOT_RUN,
         "target": target, "note": f"no CUDA device; on one: {command}"}
        for row, what, target in rows
    ]  # fmt: skip


def _error(case: Case, call: Call, want: Sequence[Tensor]) -> list[float]:
    got = _run(call, list(case.inputs), case.grads)
    pairs = ((a.detach().double(), b.detach()) for a, b in zip(got, want, strict=True))
    return [float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in pairs]


def _run(call: Call, inputs: Sequence[Tensor], with_grads: bool) -> list[Tensor]:
    """Output, and where asked for the gradients of a fixed weighting of it."""
    if not with_grads:
        with torch.no_grad():
            return [call(*inputs)]
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = call(*leaves)
    above = torch.linspace(-1, 1, out.shape[-1], device=out.device, dtype=out.dtype)
    return [out, *torch.autograd.grad(out, leaves, above.expand_as(out))]


def _rotated(inputs: Sequence[Tensor], device: torch.device) -> list[list[Tensor]]:
    """Copies of the first input that together do not fit the cache; weights stay."""
    first, *rest = inputs
    n_bytes = first.numel() * first.element_size()
    count = max(2, min(32, CACHE_BYTES // max(1, n_bytes) + 1)) if device.type == "cuda" else 2
    return [[first.clone(), *rest] for _ in range(count)]
