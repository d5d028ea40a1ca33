"""What a figure was measured on; stands beside every committed result."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = ("segkit", "torch", "numpy", "monai", "segment-anything", "timm")


def describe() -> dict[str, object]:
    """Processor, cores, memory, devices and versions."""
    return {
        "processor": _processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "commit": _commit(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    """Version of a package; None where it is not installed, as on a machine for kernels only."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def one_line(facts: dict[str, object]) -> str:
    """Hardware and versions for the head of a table."""
    packages = facts["packages"]
    assert isinstance(packages, dict)
    threads = f"{facts['threads']} thread" + ("" if facts["threads"] == 1 else "s")
    where = facts["gpu"] or f"{facts['processor']} ({facts['vectors']}), {threads}"
    return (
        f"{where}; segkit at {facts['commit']}; python {facts['python']}, torch {packages['torch']}"
    )


def _commit() -> str | None:
    """Commit of the checkout, with a plus if files differ from it; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
