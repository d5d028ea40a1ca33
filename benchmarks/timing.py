"""Times of calls: medians with their spread, and contests of several implementations."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and quartiles in milliseconds over `runs` calls."""

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


def measure(call: Callable[[], object], *, seconds: float = 3.0, least: int = 5) -> Timing:
    """Repeat a call for about `seconds`, at least `least` times after one warm-up."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    low, median, high = statistics.quantiles(times, n=4)
    return Timing(median, low, high, len(times))


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Processor time of one contender in milliseconds, all threads together, one per round.

    `wall_ms` is for information only: it depends on what else runs on the machine.
    """

    samples_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]

    @property
    def least_ms(self) -> float:
        """The figure that is compared."""
        return min(self.samples_ms)

    @property
    def median_ms(self) -> float:
        """Middle of all rounds."""
        return statistics.median(self.samples_ms)


def contest(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    seconds: float = 60.0,
    warm_up: bool = True,
) -> dict[str, CpuTime]:
    """Run the calls in turns, so that other load hits all alike (harness rules H1 and H5).

    Stops after `rounds` or, once each had three turns, after `seconds`.
    """
    if warm_up:
        for call in calls.values():
            call()
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > end:
            break
        for name, call in calls.items():
            began, start = time.perf_counter(), time.process_time()
            call()
            cpu[name].append((time.process_time() - start) * 1e3)
            wall[name].append((time.perf_counter() - began) * 1e3)
    return {name: CpuTime(tuple(cpu[name]), tuple(wall[name])) for name in calls}
