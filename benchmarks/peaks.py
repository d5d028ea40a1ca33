"""Peak memory of one call, in a process that has done nothing larger before."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def peak_mib(call: Callable[[], object]) -> float:
    """Peak resident memory during the call over what was resident before, in MiB (Linux)."""
    if not sys.platform.startswith("linux"):
        raise OSError("peak memory is read from /proc, which only Linux has")
    gc.collect()
    _RESET.write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no line {name}")
