"""All benchmarks that need no GPU: `make bench`, and the book of rows they fill.

Each runs in a process of its own. The book (`results/cpu.*`) shows every CPU row with its target;
rows of a GPU are printed as "not run" with the command that runs them.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import table
from benchmarks.rows import not_run

CPU = (
    "benchmarks.bench_click",
    "benchmarks.bench_encode",
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


def book() -> Iterator[dict[str, object]]:
    """Rows of all result files that exist, those of video by reference, then those of a GPU."""
    for name in BOOK:
        path = table.RESULTS / f"{name}.json"
        if not path.exists():
            yield not_run(name, "", f"python -m benchmarks.bench_{name}")
            continue
        for row in json.loads(path.read_text())["rows"]:
            yield row | {"from": f"{name}.md"}
    for identifier in ("C5", "C6", "C7"):
        yield {"row": identifier, "case": "video and volumes as video", "from": "video.md"}
    for identifier, (case, command) in GPU.items():
        yield not_run(identifier, case, command)


def main() -> None:
    """Run each benchmark; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cpu", action="store_true", help="measure the CPU rows")
    what.add_argument("--book", action="store_true", help="put the rows together, measure nothing")
    if parser.parse_args().cpu:
        for module in CPU:
            subprocess.run([sys.executable, "-m", module], check=True)
    notes = (
        "Ratios are segkit / peer, lower is better. Hardware, versions and commit of a row stand "
        "in the file it comes from."
    )
    rows = list(book())
    print(table.write("cpu", "The benchmark book: CPU", rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
