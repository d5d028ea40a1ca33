"""Cine MR clips with adapters: equal CPU time each, then everything on the same test clips.

`python -m benchmarks.clips_adapters --data FOLDER [--adapters none dilated lora] [--minutes 2]`

FOLDER holds video/sunnybrook_cine_lv. Each adapter is trained by `segkit train
experiment=cine_video` for so many minutes of CPU time (`segkit.lightning.CpuTimer`, one thread,
validation included), which is far from the end of training. Then all rows follow the test clips
from the same first frame: the reference's box (nano, nano2) or mask (copying). `--only train` and
`--only measure` do one half. Writes `results/clips_adapters.{json,csv,md}`.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segkit.torchvision_compat  # noqa: F401
from benchmarks import table
from benchmarks.zero_shot_clips import LABELS, PHASES
from segkit.data.clips_sequences import Along, ClipSpec
from segkit.data.datasets import find_cases
from segkit.data.preprocess import InputSpec, Intensity
from segkit.evaluation.clips import RecordingReader
from segkit.evaluation.clips_rows import Follow, Sliced, Tracked, copy_ellipse, copy_first
from segkit.evaluation.clips_runner import measure_clips, tracker_of
from segkit.evaluation.measuring import Measured
from segkit.evaluation.samples import SampleReader
from segkit.evaluation.settings import Scoring
from segkit.evaluation.statistics import Resampling
from segkit.models import build
from segkit.models.files import load_model

SET = Path("video") / "sunnybrook_cine_lv"
COPY, ZERO_SHOT, SLICED = "copy the first mask", "nano2", "nano, box of its last mask"


def train(adapter: str, data: Path, run: Path, minutes: float) -> None:
    """One training, in a process of its own."""
    timer = f"{{_target_: segkit.lightning.CpuTimer, minutes: {minutes}}}"
    words = [
        "train", "experiment=cine_video", f"data.root={data / SET}", f"run={run}",
        f"adapter={adapter}", "trainer.max_epochs=-1", "optimizer.follow=time",
        "trainer.limit_train_batches=15", "+trainer.limit_val_batches=6",
        "callbacks.early_stopping=null", f"+callbacks.timer={timer}",
    ]  # fmt: skip
    print("segkit", *words, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "segkit.cli.main", *words], check=True, env=environment)


def steps_of(run: Path) -> int:
    """Steps that a training has taken, as its log has them."""
    with (run / "metrics.csv").open() as file:
        return max(int(float(row["step"])) for row in csv.DictReader(file)) + 1


def methods(runs: dict[str, Path]) -> dict[str, Follow]:
    """What is compared, by name."""
    found: dict[str, Follow] = {
        COPY: copy_first,
        "copy the ellipse in the first box": copy_ellipse,
        SLICED: Sliced(build.nano().eval(), "propagated"),
        ZERO_SHOT: Tracked(tracker_of(build.BUILDERS["nano2"]().eval())),
    }
    for adapter, run in runs.items():
        segmenter, _ = load_model(run)
        found[_name(adapter)] = Tracked(tracker_of(segmenter.eval()))
    return found


def _name(adapter: str) -> str:
    return f"{ZERO_SHOT} + {'decoder only' if adapter == 'none' else adapter}"


def rows_of(along: Along, measured: Measured, runs: dict[str, Path]) -> list[dict[str, object]]:
    """Means with intervals over patients; differences to copying and to zero-shot, paired."""
    resampling, scores = Resampling(), measured.table
    steps = {_name(adapter): steps_of(run) for adapter, run in runs.items()}
    rows = []
    for name in scores.rows:
        mean: Any = scores.summarise(name, resampling)["mean"]
        clip = measured.maps.summarise(name, resampling)["clip"]
        against = {
            other: _difference(scores.compare(name, other, resampling)["dice"])
            for other in (COPY, ZERO_SHOT)
            if other != name
        }
        rows.append({
            "along": along,
            "row": name,
            "Dice": _interval(mean["dice"]),
            "J&F": round(clip["j_and_f"]["mean"], 3),
            "consistency": round(clip["consistency"]["mean"], 3),
            "NSD 1 px": round(mean["nsd"]["mean"], 3),
            "HD95 px": round(mean["hd95_mm"]["mean"], 2),
            "Dice - copying": against.get(COPY),
            "Dice - zero-shot": against.get(ZERO_SHOT) if name in steps else None,
            "clips": len(scores.of(name)),
            "steps": steps.get(name),
        })  # fmt: skip
    return rows


def _interval(found: Any) -> str:
    low, high = found["ci95"]
    return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _difference(found: Any) -> str:
    low, high = found["ci95"]
    return f"{found['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def measure(args: argparse.Namespace, runs: dict[str, Path]) -> None:
    """Follow the test clips with every row and write the table."""
    dataset = find_cases(args.data / SET, labels=LABELS)
    cases = dataset.cases["test"]
    view = InputSpec(2, 256, "repeat", Intensity("full"))
    compared, rows = methods(runs), []
    for along in args.along:
        start = time.monotonic()
        spec = ClipSpec(period=PHASES, along=(along,))
        clips = RecordingReader(SampleReader(LABELS), view, spec)
        measured = measure_clips(compared, clips.all(cases), LABELS, Scoring())
        rows += rows_of(along, measured, runs)
        print(f"{along}: {time.monotonic() - start:.0f} s", flush=True)
        patients = np.unique([case.group for case in cases]).size
        notes = (
            f"Means over clips with 95 % bootstrap intervals over the {patients} test patients, "
            "differences paired. The first frame is shown and not measured: its box to nano and "
            "nano2, its mask to the copy; both come from the reference. Input 256 px. Each adapter "
            f"was trained for {args.minutes:g} minutes of CPU time (one thread, one seed), with "
            "the decoder; the training is far from converged."
        )
        title = "Cine MR clips: adapters on nano2 after equal CPU time"
        print(table.write("clips_adapters", title, rows, notes=notes).read_text(), flush=True)


def main() -> None:
    """Train, measure, or both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clips_adapters")
    parser.add_argument("--data", type=Path, required=True, help="folder with video/")
    parser.add_argument("--adapters", nargs="+", default=["none", "dilated", "lora"])
    parser.add_argument("--minutes", type=float, default=2.0, help="of CPU time per training")
    parser.add_argument("--runs", type=Path, default=Path("runs/clips_adapters"))
    parser.add_argument("--along", nargs="+", default=["time", "slices"])
    parser.add_argument("--only", choices=["train", "measure"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {adapter: args.runs / adapter for adapter in args.adapters}
    for adapter, run in runs.items() if args.only != "measure" else ():
        train(adapter, args.data, run, args.minutes)
    if args.only != "train":
        measure(args, runs)


if __name__ == "__main__":
    main()
