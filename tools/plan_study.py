"""Planned against hand-written against supervised, at equal time of one thread, on one data set.

Run: python -m tools.plan_study --data Task04_Hippocampus [--minutes 4] [--limit N] [--table]

Three commands without editing a file (plan, train, eval) beside the experiments that ship: the
hand-written one and, for the hippocampus, STU-Net-S and MONAI's U-Net. A training ends after so
many minutes of CPU time of its one thread: on an idle machine that is wall time, on a busy one what
others take does not count. A step costs more CPU time too beside other work, since processors
share caches; so all trainings run side by side and meet the same load. Results:
benchmarks/results/plan_study.{json,csv,md}, for other sets with their name, as
plan_study_kvasir_polyp.md; `--table` writes them again from the runs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import table

HIPPOCAMPUS = "Task04_Hippocampus"
RIVALS = {
    HIPPOCAMPUS: {
        "hand_written": "hippocampus",
        "stu_net_s": "hippocampus_stunet",
        "unet_3d": "hippocampus_unet",
    },
    "kvasir_polyp": {"hand_written": "polyp"},
    "hc18_fetal_head": {"hand_written": "fetal_head"},
    "dsb2018_nuclei": {"hand_written": "nuclei"},
    "chase_db1_vessels": {"hand_written": "vessels"},
    "sunnybrook_cine_lv": {"hand_written": "cine_click"},
}
"""Rows beside the planned one, and the experiments that ship for them, by data set."""
NAMES = {
    "kvasir_polyp": "polyp",
    "hc18_fetal_head": "fetal head",
    "dsb2018_nuclei": "nucleus",
    "chase_db1_vessels": "vessel",
    "sunnybrook_cine_lv": "left ventricle",
}
"""Class of the sets that have no list of names: what a person would say to `segkit plan`."""
OFTEN = {HIPPOCAMPUS: ["trainer.val_check_interval=0.4"]}
"""An epoch of a volume's slices is long: validation comes more often than the experiments say."""
COSTS = "costs.json"


def main() -> None:
    """Plan, train, evaluate, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="default: runs/plan_study/NAME OF THE SET")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--limit", type=int, help="test cases, spread over the split")
    parser.add_argument("--table", action="store_true", help="only collect what has been run")
    args = parser.parse_args()
    if args.data.name not in RIVALS:
        parser.error(f"--data must be one of {', '.join(RIVALS)}; found {args.data.name}")
    args.runs = args.runs or Path("runs/plan_study") / args.data.name
    if not args.table:
        args.runs.mkdir(parents=True, exist_ok=True)
        study(args)
    collect(args)


def study(args: argparse.Namespace) -> None:
    """Run plan, trainings and evaluation; keep what each cost."""
    experiment = args.runs / "planned.yaml"
    told = ["--labels", NAMES[args.data.name]] if args.data.name in NAMES else []
    plan = ["plan", args.data, "-o", experiment, "--minutes", args.minutes, *told]
    costs = {"plan": run(plan)}
    commands = {"planned": [f"experiment={experiment}"]}
    given = ["trainer.max_epochs=-1", "optimizer.follow=time", *OFTEN.get(args.data.name, ())]
    rivals = RIVALS[args.data.name]
    commands |= {row: [f"experiment={name}", *given] for row, name in rivals.items()}
    timer = f"{{_target_: segkit.lightning.CpuTimer, minutes: {args.minutes}}}"
    limit = ["trainer.max_time=null", f"+callbacks.timer={timer}"]
    for row, words in commands.items():
        # prepared cases of its own: none must prepare them for the others
        cache = f"data.cache_dir={args.runs / 'cache' / row}"
        folder = [f"data.root={args.data}", f"run={args.runs / row}", cache]
        commands[row] = ["train", *words, *folder, *limit]
    costs |= run_together(commands)
    against = ",".join(f"{row}:{args.runs / row}" for row in rivals)
    words = ["eval", f"run={args.runs / 'planned'}", f"against={{{against}}}"]
    words += [f"data.root={args.data}", f"settings.limit={args.limit or 'null'}"]
    words += ["settings.robustness.cases=0", "settings.calibration=false"]
    costs["eval"] = run([*words, "settings.baselines=[location_prior]"])
    (args.runs / COSTS).write_text(json.dumps({"minutes": args.minutes, "costs": costs}) + "\n")


def run(words: list[Any]) -> dict[str, float]:
    """Run a command of segkit with one thread; returns its wall and CPU minutes."""
    return run_together({"": words})[""]


def run_together(commands: Mapping[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Run commands of segkit side by side, one thread each; wall and CPU minutes of each."""
    start, costs = time.perf_counter(), {}
    running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    for name, words in commands.items():
        print("segkit", *words, flush=True)
        command = [sys.executable, "-m", "segkit.cli.main", *map(str, words)]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        running[process.pid] = name, process
    while running:
        pid, status, used = os.wait4(-1, 0)
        name, process = running.pop(pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            for _, other in running.values():
                other.terminate()
            raise SystemExit(f"failed: segkit {' '.join(map(str, commands[name]))}")
        wall = time.perf_counter() - start
        costs[name] = {"wall": wall / 60, "cpu": (used.ru_utime + used.ru_stime) / 60}
    return costs


def collect(args: argparse.Namespace) -> None:
    """Write the table of all rows with their paired differences to the planned one."""
    summary = json.loads((args.runs / "planned/eval/test/summary.json").read_text())
    told = json.loads((args.runs / COSTS).read_text())
    rows = [row_of(name, row, summary, args.runs) for name, row in summary["rows"].items()]
    costs = ", ".join(
        f"{name} {one['cpu']:.1f} ({one['wall']:.1f})" for name, one in told["costs"].items()
    )
    notes = (
        f"{args.data.name}, {summary['cases']} test cases, trainings of {told['minutes']:g} "
        "minutes of CPU time of one thread each, side by side, validation included. CPU (wall) "
        f"minutes in all: {costs}; the machine was shared. nano has sha256 "
        f"{nano(args.runs)[:12]}. Differences: paired bootstrap over subjects. Prompts: "
        f"{prompts(summary['rows'])}."
    )
    title = "Planned, hand-written and supervised at equal CPU time"
    name = "plan_study" if args.data.name == HIPPOCAMPUS else f"plan_study_{args.data.name}"
    print(table.write(name, title, rows, notes=notes).read_text())


def prompts(rows: Mapping[str, Any]) -> str:
    """What each row was told, rows of one kind together."""
    found: dict[str, list[str]] = {}
    for name, row in rows.items():
        found.setdefault(row["prompt"], []).append("planned" if name == "adapted" else name)
    return "; ".join(f"{', '.join(names)}: {told}" for told, names in found.items())


def row_of(
    name: str, row: Mapping[str, Any], summary: Mapping[str, Any], runs: Path
) -> dict[str, Any]:
    """One line of the table."""
    shown = "planned" if name == "adapted" else name
    dice, nsd = row["mean"]["dice"], row["mean"]["nsd"]
    pair = summary["differences"].get(f"{summary['headline']} - {name}", {}).get("dice")
    return {
        "row": shown,
        "Dice": round(dice["mean"], 4),
        "95 % interval": "{:.3f} to {:.3f}".format(*dice["ci95"]),
        "NSD": round(nsd["mean"], 4),
        "planned minus row": pair
        and "{:+.3f} [{:+.3f}, {:+.3f}]".format(pair["mean"], *pair["ci95"]),
        "Wilcoxon p": pair and pair["p_wilcoxon"],
        **trained(runs / shown),
    }


def trained(folder: Path) -> dict[str, Any]:
    """Steps, best validation and memory of a training."""
    path = folder / "environment.json"
    result = json.loads(path.read_text()).get("result", {}) if path.exists() else {}
    if not result:
        return {"steps": None, "val Dice": None, "peak MiB": None}
    best = result["metrics"].get("val/dice")
    return {
        "steps": result["steps"],
        "val Dice": None if best is None else round(best, 3),
        "peak MiB": round(result["peak_memory_mib"]),
    }


def nano(runs: Path) -> str:
    """Hash of the frozen weights that the planned model stands on."""
    from segkit.models.zoo import read_info

    return read_info(runs / "planned/adapter.safetensors").recipe.backbone.sha256


if __name__ == "__main__":
    main()
