"""Freed memory goes back to the system."""

import sys
from pathlib import Path

import numpy as np
import pytest

from segkit.serve.memory import give_back

PAGE = 4096


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back() -> None:
    # too small for pages of their own: the C library keeps them in its heap
    held = [np.ones(2**13, np.uint8) for _ in range(20_000)]
    keep = held[::500]
    full = resident()
    del held
    give_back()
    assert resident() < full - 100 * 2**20
    assert all(one.all() for one in keep)
