"""From a mark in Slicer to voxels in the segment: real MRML, a server of its own, nano on the CPU.

Needs the environment of `make test-slicer`.
Run: python -m benchmarks.bench_serve_slicer
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import table

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-slicer" / "bin" / "python"
GOALS_S = {"first mark, sends the volume": 2.5, "first click of a second segment": 1.5}


def rows() -> list[dict[str, object]]:
    """Run the script in the other environment and sum its times up."""
    words = [str(PYTHON), str(ROOT / "tests" / "slicer" / "mrml" / "latency.py")]
    environment = {**os.environ, "SEGKIT_PYTHON": sys.executable}
    run = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[float]] = json.loads(run.stdout.splitlines()[-1])
    further = [one for case, times in found.items() if case not in GOALS_S for one in times]
    return [_row(case, times) for case, times in {**found, "further clicks, all": further}.items()]


def _row(case: str, times: list[float]) -> dict[str, object]:
    goal = 1e3 * GOALS_S.get(case, 0.2)
    p95 = 1e3 * float(np.percentile(times, 95))
    return {
        "case": case,
        "n": len(times),
        "median ms": 1e3 * float(np.median(times)),
        "p95 ms": p95,
        "goal ms": goal,
        "met": "yes" if p95 <= goal else "no",
    }


def main() -> None:
    """Measure and write `results/serve_slicer.*`."""
    notes = (
        "512 x 512 x 300 int16 under an oblique matrix; Slicer's C++ code from slicer-core 5.12.4 "
        "and the server share the two cores, nothing else runs. Times go from the placed point to "
        "the segment written by the Segment Editor's logic, with a state for undo, and the check "
        "for edits by hand. Drawing on the screen is not part of it."
    )
    title = "From a mark in Slicer to the segment, segkit serve -m nano, 2-core x86-64 CPU"
    print(table.write("serve_slicer", title, rows(), notes=notes).read_text())


if __name__ == "__main__":
    main()
