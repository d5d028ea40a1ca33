"""Cine MR clips: `nano2` with memory, adapted and not, against copying the first mask.

`python -m benchmarks.zero_shot_clips --data PATH [--runs RUN ...] [--limit 0]`

Two ways through the test patients: along time (end-diastole and end-systole of each slice, in the
order of their phases) and through the slices of each phase. The object is shown once, on the first
frame, from the reference: an oracle, and so labelled. The first frame is not measured. `--runs`
are run folders of `segkit train experiment=cine_video`. Writes `results/zero_shot_clips.{json,csv,
md}`.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segkit.torchvision_compat  # noqa: F401
from benchmarks import table
from segkit.backbones.checkpoints import file_sha256
from segkit.data.clips_sequences import ClipSpec
from segkit.data.datasets import find_cases
from segkit.data.preprocess import InputSpec, Intensity
from segkit.evaluation.clips import RecordingReader
from segkit.evaluation.clips_rows import Follow, Mark, Sliced, Tracked, copy_ellipse, copy_first
from segkit.evaluation.clips_runner import measure_clips, tracker_of
from segkit.evaluation.samples import SampleReader
from segkit.evaluation.scores import ScoreTable
from segkit.evaluation.settings import Scoring
from segkit.evaluation.statistics import Resampling
from segkit.models import build
from segkit.models.files import load_model

LABELS = {1: "left ventricle"}
WEIGHTS = Path(__file__).parents[1] / "segkit" / "weights"
PHASES = 20
PROMPTS = {
    "copy_last": "mask",
    "copy_ellipse": "box",
    "nano, oracle box on every frame": "box on every frame",
    "nano, box of its last mask": "box",
}


def methods(runs: list[Path], marks: tuple[Mark, ...]) -> dict[str, Follow]:
    """What is compared, by name."""
    found: dict[str, Follow] = {"copy_last": copy_first, "copy_ellipse": copy_ellipse}
    nano = build.nano().eval()
    found["nano, oracle box on every frame"] = Sliced(nano, "oracle")
    found["nano, box of its last mask"] = Sliced(nano, "propagated")
    zero = tracker_of(build.BUILDERS["nano2"]().eval())
    for mark in marks:
        found[f"nano2, {mark}"] = Tracked(zero, mark)
    for run in runs:
        segmenter, info = load_model(run)
        adapter = info.recipe.adapter.target.rpartition(".")[2]
        tracker = tracker_of(segmenter)
        for mark in marks[:2]:
            found[f"nano2 + {adapter}, {mark}"] = Tracked(tracker, mark)
    return found


def rows_of(along: str, scores: ScoreTable, seconds: dict[str, Any]) -> list[dict[str, object]]:
    """Mean figures with intervals over patients, and the difference to copying the last mask."""
    resampling = Resampling()
    rows = []
    for name in scores.rows:
        mean: Any = scores.summarise(name, resampling)["mean"]
        low, high = mean["dice"]["ci95"]
        paired: Any = scores.compare(name, "copy_last", resampling)["dice"]
        rows.append({
            "along": along,
            "method": name,
            "prompt (oracle)": PROMPTS.get(name, name.rpartition(", ")[2]),
            "dice": round(mean["dice"]["mean"], 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "J": round(mean["iou"]["mean"], 4),
            "NSD 1 px": round(mean["nsd"]["mean"], 4),
            "HD95 px": round(mean["hd95_mm"]["mean"], 2),
            "- copy_last": round(paired["mean"], 4),
            "diff low": round(paired["ci95"][0], 4),
            "diff high": round(paired["ci95"][1], 4),
            "clips": len(scores.of(name)),
            "s per clip": round(seconds[name]["mean"], 2),
        })  # fmt: skip
    return rows


def sha256(name: str) -> str:
    """Digest of weights inside the package."""
    return file_sha256(WEIGHTS / f"{name}.safetensors")


def main() -> None:
    """Parse the command line, score every method and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zero_shot_clips", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with video/")
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--size", type=int, default=256, help="side of the model input in pixels")
    parser.add_argument("--patients", type=int, default=0, help="at most so many; 0 is all")
    parser.add_argument("--name", default="zero_shot_clips", help="name of the result files")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = find_cases(args.data / "video" / "sunnybrook_cine_lv", labels=LABELS)
    cases = dataset.cases["test"]
    patients = sorted({case.group for case in cases})[: args.patients or None]
    cases = tuple(case for case in cases if case.group in patients)
    view = InputSpec(2, args.size, "repeat", Intensity("full"))
    rows: list[dict[str, object]] = []
    compared = methods(args.runs, ("box", "mask", "click"))
    for along in ("time", "slices"):
        start = time.monotonic()
        clips = RecordingReader(SampleReader(LABELS), view, ClipSpec(period=PHASES, along=(along,)))
        measured = measure_clips(compared, clips.all(cases), LABELS, Scoring())
        rows += rows_of(along, measured.table, measured.clock.to_dict())
        print(f"{along}: {time.monotonic() - start:.0f} s", flush=True)
    frames = np.unique([case.id for case in cases]).size
    notes = (
        f"Mean over clips with 95 % bootstrap intervals over the {len(patients)} test patients "
        f"({frames} labelled frames, input {args.size} px); the first frame is shown and not "
        "measured. All prompts come from the reference: oracle prompts. `copy_last` keeps the "
        "given first mask. `- copy_last`: paired difference of Dice. Times on a 2-core x86-64 "
        f"CPU, {args.threads} thread(s), load {os.getloadavg()[0]:.1f}. Weights: "
        + ", ".join(f"{name} {sha256(name)}" for name in ("nano", "nano2"))
        + " (sha256)."
    )
    print(table.write(args.name, "Cine MR clips with nano2", rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
