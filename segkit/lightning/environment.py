"""Facts about the machine and the software that a run depends on."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import segkit
from segkit.version import VERSION

PACKAGES = (
    "torch",
    "lightning",
    "monai",
    "timm",
    "segment-anything",
    "peft",
    "numpy",
    "hydra-core",
)


def environment(*, data: str, device: torch.device, seed: int) -> dict[str, Any]:
    """Versions, device, git commit and the fingerprint of the data."""
    return {
        "segkit": VERSION,
        "git_commit": git_commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": package_versions(),
        "device": describe(device),
        "threads": torch.get_num_threads(),
        "data": data,
        "seed": seed,
    }


def package_versions() -> Mapping[str, str]:
    """Installed versions of what computes; a missing package is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(device: torch.device) -> str:
    """Device in words, e.g. "cuda NVIDIA H100" or "cpu x86_64"."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()}"


def git_commit() -> str | None:
    """Commit of the checkout segkit runs from, with "+" if it was edited; None for a wheel."""
    folder = Path(segkit.__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
