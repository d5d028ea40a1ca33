"""`segkit doctor`: what is installed, what works here, what is missing and how to get it."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from segkit.kernels.status import states
from segkit.models.weights import home_folder
from segkit.torchvision_compat import DECLARED
from segkit.version import VERSION

_GIB = 2**30
_DEVELOPMENT = ("dev", "docs")


def run(args: argparse.Namespace) -> int:
    """Examine the installation."""
    findings = examine()
    sys.stdout.write((json.dumps(findings, indent=2) if args.json else as_text(findings)) + "\n")
    return 0 if not findings["problems"] else 1


def examine() -> dict[str, Any]:
    """Collect all findings as plain values; `problems` names what keeps segkit from working."""
    core, extras = requirements()
    packages = {name: _version(name) for name in core}
    devices = [_cpu(), *_accelerators()]
    cache = _cache(home_folder())
    problems = [f"{name} is missing: pip install segkit" for name in core if packages[name] is None]
    problems += [f"{d['device']} does not compute: {d['error']}" for d in devices if d["error"]]
    if not cache["writable"]:
        problems.append(f"{cache['folder']} cannot be written: set SEGKIT_HOME to another folder")
    return {
        "segkit": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "devices": devices,
        "torchvision": _torchvision(),
        "triton": _triton(),
        "extras": {name: _extra(name, needed) for name, needed in extras.items()},
        "cache": cache,
        "memory_gib": _memory(),
        "problems": problems,
    }


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Packages of the core install and of each extra, from the metadata of the installation."""
    core: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("segkit") or []:
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if extra is None:
            core.append(name)
        elif extra[1] not in _DEVELOPMENT:
            extras.setdefault(extra[1], []).append(name)
    return sorted(core, key=str.lower), extras


def as_text(findings: dict[str, Any]) -> str:
    """Findings in short lines for people."""
    lines = [
        f"segkit {findings['segkit']}, Python {findings['python']}, {findings['platform']}",
        "",
        "devices",
        *(f"  {_device_line(device)}" for device in findings["devices"]),
        f"  torchvision: {findings['torchvision']['state']}",
        f"  triton: {findings['triton']['state']}",
        *(f"    {name}: {state}" for name, state in findings["triton"]["kernels"].items()),
        "",
        "packages",
        *(f"  {name} {found or 'MISSING'}" for name, found in findings["packages"].items()),
        "",
        "extras",
        *(f"  {_extra_line(name, one)}" for name, one in findings["extras"].items()),
        "",
        _cache_line(findings["cache"]),
        _memory_line(findings["memory_gib"]),
        "",
    ]
    problems = [f"problem: {problem}" for problem in findings["problems"]]
    return "\n".join(lines + (problems or ["everything needed works"]))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    return {
        "device": "cpu",
        "name": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "error": _fault("cpu"),
    }


def _accelerators() -> list[dict[str, Any]]:
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        found.append(
            {
                "device": f"cuda:{index}",
                "name": about.name,
                "memory_gib": round(about.total_memory / _GIB, 1),
                "capability": f"{about.major}.{about.minor}",
                "error": _fault(f"cuda:{index}"),
            }
        )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.machine(), "error": _fault("mps")})
    return found


def _fault(device: str) -> str | None:
    """Compute something with a known result; None if it is right."""
    try:
        ones = torch.ones(8, 8, device=device)
        return None if (ones @ ones).sum().item() == 512 else "a matrix product is wrong"
    except RuntimeError as error:
        return str(error).splitlines()[0]


def _torchvision() -> dict[str, Any]:
    version = _version("torchvision")
    if version is None:
        state = "not installed (timm needs it: pip install torchvision)"
    elif DECLARED is None:
        state = "works"
    else:
        state = "importable, but its operators do not fit this torch; segkit does not need them"
    return {"version": version, "state": state, "has_operators": bool(version) and DECLARED is None}


def _triton() -> dict[str, Any]:
    version = _version("triton")
    is_usable = version is not None and torch.cuda.is_available()
    kernels: dict[str, str] = {}
    if is_usable:
        kernels = states(torch.device("cuda"))
        works = sum(one == "works" for one in kernels.values())
        state = f"{works} of {len(kernels)} fused kernels work"
    elif torch.cuda.is_available():
        state = "not installed; fused kernels need it: pip install 'segkit[triton]'"
    else:
        state = "not used without a CUDA device; the plain kernels compute the same"
    return {"version": version, "state": state, "usable": is_usable, "kernels": kernels}


def _extra(name: str, packages: list[str]) -> dict[str, Any]:
    missing = [package for package in packages if _version(package) is None]
    command = f"pip install 'segkit[{name}]'"
    return {"installed": not missing, "missing": missing, "install": command}


def _cache(folder: Path) -> dict[str, Any]:
    """Whether files can be made in the folder, or in the nearest one above it that exists."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            is_writable = True
    except OSError:
        is_writable = False
    free = shutil.disk_usage(existing).free
    return {"folder": str(folder), "writable": is_writable, "free_gib": round(free / _GIB, 1)}


def _memory() -> dict[str, float | None]:
    """Physical memory in GiB: all of it and what is free for programs; None where unknown."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return {"total": None, "available": None}
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    available = None
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and (
        found := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="ascii"))
    ):
        available = round(int(found[1]) * 1024 / _GIB, 1)
    return {"total": round(total / _GIB, 1), "available": available}


def _device_line(device: dict[str, Any]) -> str:
    state = device["error"] or "works"
    if device["device"] == "cpu":
        about = f"{device['cores']} cores, {device['threads']} threads, {device['instructions']}"
    else:
        about = device["name"]
        about += f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
    return f"{device['device']}: {state} ({about})"


def _extra_line(name: str, extra: dict[str, Any]) -> str:
    if extra["installed"]:
        return f"{name}: installed"
    return f"{name}: lacks {', '.join(extra['missing'])}; get it with: {extra['install']}"


def _cache_line(cache: dict[str, Any]) -> str:
    state = "writable" if cache["writable"] else "NOT writable"
    return f"cache {cache['folder']}: {state}, {cache['free_gib']} GiB free"


def _memory_line(memory: dict[str, float | None]) -> str:
    if memory["total"] is None:
        return "memory: unknown"
    rest = "" if memory["available"] is None else f", {memory['available']} GiB available"
    return f"memory: {memory['total']} GiB{rest}"
