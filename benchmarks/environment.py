"""What a figure was measured on; stands beside every committed result."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

PACKAGES = ("segkit", "torch", "numpy", "monai", "segment-anything", "timm")


def describe() -> dict[str, object]:
    """Processor, cores, memory, devices and versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def one_line(facts: dict[str, object]) -> str:
    """Hardware and versions for the head of a table."""
    packages = facts["packages"]
    assert isinstance(packages, dict)
    where = facts["gpu"] or f"{facts['processor']}, {facts['threads']} threads"
    return f"{where}; python {facts['python']}, torch {packages['torch']}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
