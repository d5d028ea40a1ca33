"""Shared fixtures."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import segkit.torchvision_compat  # noqa: F401  (before lightning, monai, timm, peft)

# A core for each process. Pools of threads that meet on fewer cores wait for each other by turning
# in circles: beside another worker, some tests took twenty times as long.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start

if not torch.cuda.is_available():
    # before anything imports Triton: without a GPU its kernels run in the interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Folder of a real data set beside the checkout; skips with a reason when it is absent."""
    root = Path(os.environ.get("SEGKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def find(name: str) -> Path:
        if not (folder := root / name).exists():
            pytest.skip(f"real data {name!r} is not beside the checkout (SEGKIT_DATA)")
        return folder

    return find
