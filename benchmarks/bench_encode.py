"""Rows C3 and C4: the image encoder on the CPU, time and memory, against the official package.

Run: python -m benchmarks.bench_encode [--full]
`--full` takes ViT-B at 1024 x 1024 (about two minutes on two cores), into `results/encode.*`.
Without it ViT-B is built for 512 x 512; rows go by other names, into `results/encode_quick.*`.
Memory is the peak of a fresh process over what it held before the call.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import peers, table
from benchmarks.peaks import peak_mib
from benchmarks.rows import Row, gate, raw_samples
from benchmarks.timing import contest
from segkit.adapters.base import Adapter
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import NANO, SIZES, VIT_B, SamSizes
from segkit.typing import Grid

WAYS = ("segkit", "peer")


class Encoders:
    """Both encoders on the same random weights, and one image of the size they are built for.

    The official encoder takes no other size: its position embedding is not resampled.
    """

    def __init__(self, sizes: SamSizes, side: int) -> None:
        sizes = replace(sizes, image_size=side)
        self.sam = peers.official_sam(sizes)
        self.backbone = SamBackbone(self.sam.image_encoder, sizes, Adapter).eval()
        self.image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        self.grid = Grid((1, side, side))

    def peer(self) -> torch.Tensor:
        """What `SamPredictor.set_image` runs."""
        return self.sam.image_encoder(self.backbone.normalise(self.image))

    def segkit(self) -> torch.Tensor:
        """Our loop over the same modules."""
        return self.backbone(self.image, self.grid).levels[0]


def measured(sizes: SamSizes, side: int, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of processor time of both, in turns, and the difference of what they return."""
    both = Encoders(sizes, side)
    made: dict[str, torch.Tensor] = {}

    def run(way: str) -> None:
        made[way] = getattr(both, way)()

    times = contest({way: partial(run, way) for way in WAYS}, rounds=rounds, warm_up=False)
    error = gate([made["peer"]], [made["segkit"]], name="encoder")
    return {way: [ms / 1e3 for ms in times[way].samples_ms] for way in WAYS}, error


def alone(sizes: SamSizes, side: int) -> tuple[dict[str, float], dict[str, float]]:
    """Peak memory over the weights and seconds of each, in a process of its own."""
    peaks, seconds = {}, {}
    for way in WAYS:
        words = [sys.executable, "-m", "benchmarks.bench_encode", "--only", sizes.name, way]
        run = subprocess.run(
            [*words, str(side)], check=True, capture_output=True, text=True, cwd=Path.cwd()
        )
        peaks[way], seconds[way] = json.loads(run.stdout.splitlines()[-1])
    return peaks, seconds


def rows_of(sizes: SamSizes, side: int, *, is_full: bool) -> list[Row]:
    """Rows C3 and C4 where they are complete, else the same at a smaller size."""
    peaks, seconds = alone(sizes, side)
    times, error = measured(sizes, side, 1 if is_full else 3)
    samples = {way: [seconds[way], *times[way]] for way in WAYS}
    case, kind = f"{sizes.name} encode, {side} x {side}", "" if is_full else " small"
    peer = f"{peers.OFFICIAL_SAM}, eager"
    return [
        Row(
            f"C3{kind}", case, min(samples["segkit"]), min(samples["peer"]), "s CPU",
            0.75 if is_full else None, peer, error, raw=samples,
        ),
        Row(
            f"C4{kind}", f"{case}, peak over the weights", peaks["segkit"], peaks["peer"], "MiB",
            0.35 if is_full else None, peer, error,
        ),
    ]  # fmt: skip


def once(name: str, way: str, side: int) -> None:
    """Print peak memory in MiB and processor seconds of one call: what `alone` starts."""
    both = Encoders(SIZES[name], side)
    start = time.process_time()
    peak = peak_mib(getattr(both, way))
    print(json.dumps([peak, time.process_time() - start]))


@torch.inference_mode()
def main(words: Sequence[str] | None = None) -> None:
    """Measure and write `results/encode.*` or `results/encode_quick.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="ViT-B at 1024 x 1024")
    parser.add_argument("--only", nargs=3, metavar=("SIZES", "WAY", "SIDE"))
    args = parser.parse_args(words)
    if args.only:
        name, way, side = args.only
        once(name, way, int(side))
        return
    rows = rows_of(VIT_B, 1024 if args.full else 512, is_full=args.full)
    times, error = measured(NANO, 256, 9)
    rows.append(
        Row(
            "nano", "nano encode, 256 x 256", min(times["segkit"]), min(times["peer"]), "s CPU",
            None, f"{peers.OFFICIAL_SAM} modules, eager", error, raw=times,
        )
    )  # fmt: skip
    notes = "Least processor time of interleaved runs, all threads together. Random weights."
    cells = [row.cells() for row in rows]
    title, name = "Image encoders on the CPU", "encode" if args.full else "encode_quick"
    print(table.write(name, title, cells, notes=notes, raw=raw_samples(rows)).read_text())


if __name__ == "__main__":
    main()
