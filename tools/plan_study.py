"""Planned against hand-written against supervised, at equal wall time, on one data set.

Run: python -m tools.plan_study --data Task04_Hippocampus [--minutes 8] [--parallel] [--limit N]

Three commands without editing a file (plan, train, eval) beside the experiment that ships,
STU-Net-S and MONAI's U-Net, each with one thread and the same wall time. `--parallel` runs the
trainings side by side, so that a busy machine slows all of them alike. Results:
benchmarks/results/plan_study.{json,csv,md}
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import table

RIVALS = {
    "hand_written": "hippocampus",
    "stu_net_s": "hippocampus_stunet",
    "unet_3d": "hippocampus_unet",
}
"""Rows beside the planned one, and the experiments that ship for them."""


def main() -> None:
    """Plan, train, evaluate, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/plan_study"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--parallel", action="store_true")
    parser.add_argument("--limit", type=int, help="test cases, spread over the split")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    experiment = args.runs / "planned.yaml"
    wait(start(["plan", args.data, "-o", experiment, "--minutes", args.minutes]))
    whole, rest = divmod(round(args.minutes * 60), 60)
    limit = [f"trainer.max_time=00:00:{whole:02}:{rest:02}", "trainer.max_epochs=-1"]
    limit += ["optimizer.follow=time", "trainer.val_check_interval=0.25"]
    commands = {"planned": [f"experiment={experiment}"]}
    commands |= {row: [f"experiment={name}", *limit] for row, name in RIVALS.items()}
    running: list[subprocess.Popen[bytes]] = []
    for row, words in commands.items():
        run = args.runs / row
        running.append(start(["train", *words, f"data.root={args.data}", f"run={run}"]))
        if not args.parallel:
            wait(running.pop())
    for process in running:
        wait(process)
    against = ",".join(f"{row}:{args.runs / row}" for row in RIVALS)
    words = ["eval", f"run={args.runs / 'planned'}", f"against={{{against}}}"]
    words += [f"data.root={args.data}", f"settings.limit={args.limit or 'null'}"]
    wait(start([*words, "settings.robustness.cases=0", "settings.baselines=[location_prior]"]))
    collect(args, load)


def start(words: list[Any]) -> subprocess.Popen[bytes]:
    """Start a command of segkit with one thread."""
    print("segkit", *words, flush=True)
    return subprocess.Popen(
        [sys.executable, "-m", "segkit.cli.main", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait(process: subprocess.Popen[bytes]) -> None:
    """Stop the study where a command fails."""
    if process.wait():
        raise SystemExit(f"failed: {process.args}")


def collect(args: argparse.Namespace, load: float) -> None:
    """Write the table of all rows with their paired differences to the planned one."""
    summary = json.loads((args.runs / "planned/eval/test/summary.json").read_text())
    rows = []
    for name, row in summary["rows"].items():
        run = args.runs / ("planned" if name == "adapted" else name)
        dice, nsd = row["mean"]["dice"], row["mean"]["nsd"]
        pair = summary["differences"].get(f"{summary['headline']} - {name}", {}).get("dice")
        rows.append(
            {
                "row": "planned" if name == "adapted" else name,
                "Dice": round(dice["mean"], 4),
                "95 % interval": "{:.3f} to {:.3f}".format(*dice["ci95"]),
                "NSD": round(nsd["mean"], 4),
                "planned minus row": pair
                and "{:+.3f} [{:+.3f}, {:+.3f}]".format(pair["mean"], *pair["ci95"]),
                "Wilcoxon p": pair and pair["p_wilcoxon"],
                **trained(run),
            }
        )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    notes = (
        f"{args.data.name}, {summary['cases']} test cases, {args.minutes:g} minutes of wall time "
        f"and one thread each{', side by side' if args.parallel else ''}; load average {load:.1f} "
        f"at the start, {used.ru_utime / 60:.1f} CPU minutes in all. Paired bootstrap over "
        "subjects."
    )
    title = "Planned, hand-written and supervised at equal wall time"
    print(table.write("plan_study", title, rows, notes=notes).read_text())


def trained(run: Path) -> dict[str, Any]:
    """Steps and memory of a training."""
    path = run / "environment.json"
    result = json.loads(path.read_text()).get("result", {}) if path.exists() else {}
    return {
        "steps": result.get("steps"),
        "train min": round(result["seconds"] / 60, 1) if result else None,
        "peak MiB": round(result["peak_memory_mib"]) if result else None,
    }


if __name__ == "__main__":
    start_time = time.perf_counter()
    main()
    print(f"{(time.perf_counter() - start_time) / 60:.1f} minutes")
