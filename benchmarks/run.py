"""All benchmarks that need no GPU: `make bench`, and the book of rows they fill.

Each runs in a process of its own. The book (`results/cpu.*`) shows every CPU row with its target,
and of those that miss it why, and what would help (`benchmarks.misses`); rows of a GPU are printed
as "not run" with the command that runs them. `make bench` takes less than 15 minutes on two cores;
what lasts longer, the video rows, is in the book as it was measured by itself.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import table
from benchmarks.misses import explained
from benchmarks.rows import not_run

CPU = (
    "benchmarks.bench_click",
    "benchmarks.bench_encode --full",
    "benchmarks.bench_train",
    "benchmarks.bench_features",
    "benchmarks.bench_startup",
    "benchmarks.bench_metrics",
    "benchmarks.bench_volume",
)
BOOK = ("click", "encode", "train", "features", "startup", "metrics")
"""Result files whose rows have the form of `benchmarks.rows.Row`."""

GPU = {
    "K1-K10": ("kernels", "python -m benchmarks.bench_kernels"),
    "EN1-EN8": ("encoders", "python -m benchmarks.bench_gpu --only EN"),
    "CK1-CK4": ("clicks", "python -m benchmarks.bench_gpu --only CK"),
    "VD1-VD3": ("video", "python -m benchmarks.bench_gpu --only VD"),
    "VL1-VL2": ("volumes as video", "python -m benchmarks.bench_gpu --only VL"),
    "TR1-TR4": ("training", "python -m benchmarks.bench_gpu --only TR"),
    "all of them, after the tests of the kernels": ("", "bash benchmarks/gpu.sh"),
}
"""Rows that need a CUDA device, and what measures them there."""

VIDEO = {
    "C5": "memory over the model and the voxels",
    "C6": "memory over the model at 500 frames",
    "C7": "first mask of 500 frames",
}
"""Where the rows of video and of volumes as video begin in `results/video.json`."""


def book() -> Iterator[dict[str, object]]:
    """Rows of all result files that exist, then those of a GPU."""
    for name in BOOK:
        path = table.RESULTS / f"{name}.json"
        if not path.exists():
            yield not_run(name, "", f"python -m benchmarks.bench_{name}")
            continue
        for row in json.loads(path.read_text())["rows"]:
            yield explained(row) | {"from": f"{name}.md"}
    yield from video()
    for identifier, (case, command) in GPU.items():
        yield not_run(identifier, case, command)


def video() -> Iterator[dict[str, object]]:
    """Rows C5 to C7, whose figures carry their units."""
    path = table.RESULTS / "video.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for identifier, start in VIDEO.items():
        found = [row for row in rows if row["row"].startswith(start)]
        if not found:
            yield not_run(identifier, start, "python -m benchmarks.bench_video")
        for row in found:
            yield {
                "row": identifier,
                "case": row["row"],
                "segkit": row["segkit"],
                "peer": row["official"],
                "ratio": row["ratio"],
                "target": row["target"],
                "met": "yes" if _share(row["ratio"]) <= _share(row["target"]) else "no",
                "from": "video.md",
            }


def _share(text: str) -> float:
    """Number of "0.7", "1/128" or "<= 1/50"."""
    over, _, under = text.removeprefix("<= ").partition("/")
    return float(over) / float(under or 1)


def measure() -> dict[str, float]:
    """Run each benchmark, stop at the first that fails; returns what it took, in minutes."""
    start = time.perf_counter()
    for command in CPU:
        subprocess.run([sys.executable, "-m", *command.split()], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "minutes": (time.perf_counter() - start) / 60,
        "processor": (used.ru_utime + used.ru_stime) / 60,
        "load": os.getloadavg()[2],
        "cores": float(os.cpu_count() or 1),
    }


def kept_times() -> dict[str, float]:
    """What the last `measure` took; empty where the book has not been written."""
    path = table.RESULTS / "cpu.json"
    return json.loads(path.read_text()).get("raw", {}) if path.exists() else {}


def main() -> None:
    """Measure, if asked to, and write `results/cpu.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cpu", action="store_true", help="measure the CPU rows")
    what.add_argument("--book", action="store_true", help="put the rows together, measure nothing")
    spent = measure() if parser.parse_args().cpu else kept_times()
    notes = (
        "Ratios are segkit / peer, lower is better. Hardware, versions and commit of a row stand "
        "in the file it comes from."
    )
    if spent:
        notes += (
            " Last measured in one go, video aside, in {minutes:.1f} minutes, {processor:.1f} of "
            "processor time, at a load of {load:.1f} on {cores:.0f} cores."
        ).format(**spent)
    rows = list(book())
    title = "The benchmark book: CPU"
    print(table.write("cpu", title, rows, notes=notes, raw=spent).read_text())


if __name__ == "__main__":
    main()
