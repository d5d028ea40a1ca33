"""Sliding windows: time and peak memory of the streaming reduction and of MONAI's inferer.

Run: python -m benchmarks.bench_windows
Each case runs in a process of its own, so that its peak is its own; the time is that of the
processor, the least of several runs in turns. The network is a 1 x 1 x 1
convolution: what is measured is the bookkeeping around it.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import monai.inferers
import torch

import segkit.torchvision_compat  # noqa: F401  (before monai)
from benchmarks import table
from segkit.predictors.windows import SlidingWindow

MIB = 1024.0
SHAPE, PATCH, OVERLAP = (256, 192, 192), (64, 64, 64), 0.5
CLASSES = (2, 8, 32)


def one(way: str, classes: int) -> dict[str, object]:
    """Label a random volume; memory counts from after volume and network exist."""
    torch.manual_seed(0)
    volume = torch.rand(1, *SHAPE)
    network = torch.nn.Conv3d(1, classes, 1)
    call = _monai if way == "monai" else _streaming
    with torch.inference_mode():
        call(volume[:, :64, :64, :64], network)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, used = time.perf_counter(), time.process_time()
        labels = call(volume, network)
        used, wall = time.process_time() - used, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "classes": classes,
        "way": way,
        "CPU seconds": used,
        "wall seconds": wall,
        "peak MiB": (peak - before) / MIB,
        "labels": hashlib.sha256(labels.to(torch.uint8).numpy().tobytes()).hexdigest()[:12],
    }


def _monai(volume: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    inferer = monai.inferers.SlidingWindowInferer(PATCH, 1, OVERLAP, mode="gaussian")
    scores = inferer(volume[None], network)
    assert isinstance(scores, torch.Tensor)
    return scores[0].argmax(dim=0)


def _streaming(
    volume: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    return SlidingWindow(PATCH, OVERLAP).labels(volume, network)


def main() -> None:
    """Measure and write `results/windows.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs=2, metavar=("WAY", "CLASSES"))
    parser.add_argument("--classes", type=int, nargs="+", default=list(CLASSES))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(one(args.only[0], int(args.only[1]))))
        return
    rows = []
    for classes in args.classes:
        best: dict[str, dict[str, Any]] = {}
        for way in ("monai", "streaming") * args.repeats:
            command = [sys.executable, "-m", "benchmarks.bench_windows", "--only", way]
            run = subprocess.run([*command, str(classes)], check=True, capture_output=True)
            row = json.loads(run.stdout.splitlines()[-1])
            best[way] = min(best.get(way, row), row, key=lambda one: one["CPU seconds"])
        usual, ours = best["monai"], best["streaming"]
        for row in (usual, ours):
            row["of MONAI's time"] = row["CPU seconds"] / usual["CPU seconds"]
            row["of MONAI's memory"] = row["peak MiB"] / usual["peak MiB"]
        rows += [usual, ours]
    notes = (
        f"Volume {SHAPE}, windows {PATCH}, overlap {OVERLAP}, Gaussian weights; the fastest of "
        f"{args.repeats} runs in turns; memory over volume and network. Equal entries under "
        "`labels` are equal label maps."
    )
    print(table.write("windows", "Sliding windows on the CPU", rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
