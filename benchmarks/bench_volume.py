"""Whole volumes on the CPU: time and peak memory over the weights.

Run: python -m benchmarks.bench_volume [--slices 200]
Each case runs in a process of its own, so that its peak is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

from benchmarks import table
from segkit.geometry import Geometry
from segkit.models import build
from segkit.predictors import VolumePredictor

MIB = 1024.0


def one(slices: int, mode: str) -> dict[str, object]:
    """Predict a 512 x 512 volume; memory counts from after model and volume are loaded."""
    shape = (slices, 512, 512)
    noise = np.random.default_rng(0).integers(-1000, 1000, size=shape, dtype=np.int16)
    source = (noise, Geometry.from_spacing(shape, (2.5, 0.8, 0.8)))
    segmenter = build.nano(classes=2 if mode == "automatic" else None)
    predictor = VolumePredictor(segmenter, device="cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if mode == "automatic":
        predictor.segment(source)
    else:
        predictor.open(source).add_box(((0, 100, 100), (slices, 400, 400))).mask()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "case": f"{mode}, 512 x 512 x {slices}",
        "seconds": seconds,
        "slices per second": slices / seconds,
        "peak MiB over weights and volume": (peak - before) / MIB,
    }


def main() -> None:
    """Measure and write `results/volume.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--only", choices=("automatic", "box"))
    args = parser.parse_args()
    if args.only:
        print(json.dumps(one(args.slices, args.only)))
        return
    rows = []
    for mode in ("automatic", "box"):
        command = [sys.executable, "-m", "benchmarks.bench_volume"]
        command += ["--slices", str(args.slices), "--only", mode]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
    print(table.write("volume", "Whole volumes with nano on the CPU", rows).read_text())


if __name__ == "__main__":
    main()
