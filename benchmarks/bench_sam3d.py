"""The volumetric ViT-B on one block of 128 x 128 x 128 voxels: time and peak memory on the CPU.

Run: python -m benchmarks.bench_sam3d [--mode forward train] [--threads 2]
Each mode runs in a process of its own, so that its peak is its own. The released code needs 7.9 GB
and 170 s for the same forward pass on two cores. `train` runs the marked slow test: a forward and
a backward pass with checkpointing of the blocks, every trained parameter gets a gradient. Modes
that are not asked for keep the row of the last run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from functools import partial
from typing import Any

import torch

from benchmarks import table
from segkit.adapters import Spatial
from segkit.models import build
from segkit.typing import Grid, Prompts

SIDE = 128
MODES = ("forward", "train")
RELEASED_GB = 7.9  # measured once with the released code, one forward pass in float32
TEST = "tests/backbones/test_sam3d_memory.py"


def forward() -> None:
    """Encode a block and decode one click."""
    segmenter = build.sam3d_vit_b(checkpoint="random", adapter=partial(Spatial)).eval()
    click = Prompts(torch.full((1, 1, 3), SIDE / 2), torch.tensor([[1]]))
    with torch.inference_mode():
        features = segmenter.encode(torch.rand(SIDE, 3, SIDE, SIDE), Grid((SIDE, SIDE, SIDE)))
        segmenter.decode(features, click)


def train() -> None:
    """Run the slow test; a failure ends the benchmark."""
    words = ["-m", "pytest", "-m", "slow", "-n", "0", "-q", TEST]
    subprocess.run([sys.executable, *words], check=True, stdout=sys.stderr)


def one(mode: str, threads: int) -> dict[str, object]:
    """Time and peak memory of a mode, over this process and its children."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    wall = time.perf_counter()
    {"forward": forward, "train": train}[mode]()
    wall = time.perf_counter() - wall
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak_gb = max(one.ru_maxrss for one in used) * 1024 / 1e9
    return {
        "mode": mode,
        "side": SIDE,
        "threads": threads,
        "CPU seconds": sum(one.ru_utime + one.ru_stime for one in used),
        "wall seconds": wall,
        "peak GB": peak_gb,
        "of the released forward": peak_gb / RELEASED_GB,
    }


def main() -> None:
    """Measure and write `results/sam3d.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(one(args.mode[0], args.threads)))
        return
    rows = {row["mode"]: row for row in _measured()}
    for mode in args.mode:
        command = [sys.executable, "-m", "benchmarks.bench_sam3d", "--inside"]
        command += ["--mode", mode, "--threads", str(args.threads)]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows[mode] = json.loads(run.stdout.splitlines()[-1])
    notes = (
        "One click, float32; peak of the whole process. `train` is the slow test of the lift: "
        "forward and backward, blocks checkpointed, its limit is 24 GiB. Wall time was taken "
        "beside other work on the machine, CPU time was not disturbed as much."
    )
    title = f"Volumetric ViT-B, {SIDE}^3 voxels, on the CPU"
    print(table.write("sam3d", title, list(rows.values()), notes=notes).read_text())


def _measured() -> list[dict[str, Any]]:
    """Rows of the last run."""
    path = table.RESULTS / "sam3d.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


if __name__ == "__main__":
    main()
