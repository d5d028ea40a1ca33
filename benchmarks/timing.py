"""Median times with their spread, after a warm-up."""

import statistics
import time
from collections.abc import Callable
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
