"""Make the tiny training importable from the tests beside it, and its trainer quiet."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch  # noqa: F401  (sets its level on import)
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bit-equal runs, and a forked process must not meet the thread pool of its parent."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
