"""Volumetric models on the hippocampus without prompts: adapted nano beside networks from scratch.

Run: python -m benchmarks.hippocampus_3d --data Task04_Hippocampus [--minutes 8] [--limit N]

Every model trains for the same wall time on one thread, then `segkit eval` measures the test split;
each step is a command that is printed as it runs. Nothing else should run on the machine. Results:
benchmarks/results/hippocampus_3d.{json,csv,md}. Slice-wise figures are in results/experiments.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import table


@dataclass(frozen=True, slots=True)
class Study:
    """One model and the experiment that trains it."""

    name: str
    experiment: str


STUDIES = (
    Study("sam3d_nano + Spatial", "hippocampus_3d"),
    Study("3D U-Net (MONAI)", "hippocampus_unet"),
    Study("STU-Net-S", "hippocampus_stunet"),
)


def main() -> None:
    """Train, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/hippocampus_3d"))
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, each")
    parser.add_argument("--limit", type=int, help="test cases, for a quick look")
    parser.add_argument("--only", nargs="+", choices=[study.experiment for study in STUDIES])
    args = parser.parse_args()
    rows = []
    for study in STUDIES:
        if args.only and study.experiment not in args.only:
            continue
        run = args.runs / study.experiment
        facts = train(study, args.data, run, args.minutes)
        rows.append(row(study, facts, measure(run, args.data, args.limit)))
    notes = "Test split, mean over cases, 95 % bootstrap interval over subjects; NSD at 1 mm."
    title = f"Hippocampus in three dimensions, {args.minutes:g} minutes of training each"
    print(table.write("hippocampus_3d", title, rows, notes=notes).read_text())


def train(study: Study, data: Path, run: Path, minutes: float) -> dict[str, Any]:
    """Train against the clock; facts of the run."""
    seconds = round(minutes * 60)
    limit = f"00:{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    words = ["train", f"experiment={study.experiment}", f"data.root={data}", f"run={run}"]
    words += [f"trainer.max_time={limit}", "trainer.max_epochs=-1", "optimizer.follow=time"]
    # a validation every 25 steps on a few cases, so that the best state is kept
    words += ["trainer.limit_train_batches=25", "+trainer.limit_val_batches=6"]
    segkit(words)
    return json.loads((run / "environment.json").read_text())


def measure(run: Path, data: Path, limit: int | None) -> dict[str, Any]:
    """Summary of the test split."""
    out = run / "eval" / "test"
    words = ["eval", f"run={run}", f"data.root={data}", f"out={out}"]
    words += ["settings.baselines=[]", "settings.robustness.cases=0"]
    words += [f"settings.limit={limit}"] if limit else []
    segkit(words)
    return json.loads((out / "summary.json").read_text())


def row(study: Study, facts: dict[str, Any], summary: dict[str, Any]) -> table.Row:
    """One line of the table."""
    mean = summary["rows"]["adapted"]["mean"]
    low, high = mean["dice"]["ci95"]
    return {
        "model": study.name,
        "Dice": round(mean["dice"]["mean"], 4),
        "95 % interval": f"{low:.3f} to {high:.3f}",
        "NSD": round(mean["nsd"]["mean"], 4),
        "HD95": round(mean["hd95_mm"]["mean"], 2),
        "cases": summary["cases"],
        "steps": facts["result"]["steps"],
        "trained parameters": facts["parameters"]["trainable"],
        "train min": round(facts["result"]["seconds"] / 60, 1),
        "peak MiB": round(facts["result"]["peak_memory_mib"]),
    }


def segkit(words: Sequence[str]) -> None:
    """Run a command on one thread."""
    print("segkit", *words, flush=True)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "segkit.cli.main", *words], check=True, env=one_thread)


if __name__ == "__main__":
    main()
