"""The volumetric ViT-B on one block of 128 x 128 x 128 voxels: time and peak memory on the CPU.

Run: python -m benchmarks.bench_sam3d [--mode forward train]
Each mode runs in a process of its own, so that its peak is its own. The released code needs 7.9 GB
and 170 s for the same forward pass on two cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial

import torch

from benchmarks import table
from segkit.adapters import Spatial
from segkit.models import build
from segkit.typing import Grid, Prompts

SIDE = 128
MODES = ("forward", "train")
RELEASED_GB = 7.9  # measured once with the released code, one forward pass in float32


def one(mode: str, side: int) -> dict[str, object]:
    """Encode a block and decode one click; `train` also goes backwards, with checkpointing."""
    torch.set_num_threads(1)
    segmenter = build.sam3d_vit_b(
        checkpoint="random", adapter=partial(Spatial), checkpointing=mode == "train"
    )
    image = torch.rand(side, 3, side, side)
    click = Prompts(torch.full((1, 1, 3), side / 2), torch.tensor([[1]]))
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.set_grad_enabled(mode == "train"):
        features = segmenter.train(mode == "train").encode(image, Grid((side, side, side)))
        logits = segmenter.decode(features, click).logits
    if mode == "train":
        logits.square().mean().backward()
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "mode": mode,
        "side": side,
        "CPU seconds": time.process_time() - cpu,
        "wall seconds": time.perf_counter() - wall,
        "peak GB": peak_gb,
        "of the released forward": peak_gb / RELEASED_GB if side == SIDE else None,
    }


def main() -> None:
    """Measure and write `results/sam3d.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--inside", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(one(args.mode[0], args.side)))
        return
    rows = []
    for mode in args.mode:
        command = [sys.executable, "-m", "benchmarks.bench_sam3d", "--inside"]
        command += ["--mode", mode, "--side", str(args.side)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
    notes = (
        "One click, float32, one thread; peak of the whole process. Wall time was taken beside "
        "other work on the machine, CPU time was not disturbed as much."
    )
    title = f"Volumetric ViT-B, {args.side}^3 voxels, on the CPU"
    print(table.write("sam3d", title, rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
