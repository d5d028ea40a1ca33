"""Freed memory goes back to the system."""

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from segkit.geometry import Geometry
from segkit.models import build
from segkit.predictors import VolumePredictor
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


def test_objects_that_know_each_other_go_without_waiting_for_the_collector() -> None:
    volume = (np.zeros((4, 32, 32)), Geometry.from_spacing((4, 32, 32), (3.0, 1.0, 1.0)))
    session = VolumePredictor(build.sam_tiny(), device="cpu").open(volume)
    kept = weakref.ref(session)
    gc.disable()
    try:
        del session
        assert kept() is not None  # an image lists its sessions; with them its embeddings stay
        give_back()
        assert kept() is None
    finally:
        gc.enable()
