"""Train and evaluate the experiments of the README on real data; collect their figures.

Run: python -m tools.reproduce --data FOLDER [--only hippocampus polyp ...] [--time-scale 1.0]

FOLDER holds the public sets under the names below. Each experiment is two commands, printed as
they run, so that a person can repeat one alone. Results: benchmarks/results/experiments/*.json
(the summary of each run) and benchmarks/results/experiments.{json,csv,md}.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks import table

SUMMARIES = table.RESULTS / "experiments"


@dataclass(frozen=True, slots=True)
class Study:
    """One experiment: folder of the data, minutes of training, overrides of the config.

    `experiment` is the config, where it is not called as the study is.
    """

    name: str
    data: str
    minutes: float
    overrides: tuple[str, ...] = ()
    experiment: str = ""


# a whole epoch and a whole validation would not end in the time
_SHORT = ("trainer.limit_train_batches=10", "+trainer.limit_val_batches=8")
_LESS_OFTEN = ("trainer.limit_train_batches=25", "+trainer.limit_val_batches=8")


STUDIES = (
    Study("hippocampus", "3d/Task04_Hippocampus", 11, ("trainer.check_val_every_n_epoch=2",)),
    Study(
        "hippocampus_3d",
        "3d/Task04_Hippocampus",
        13,
        ("trainer.limit_train_batches=25", "+trainer.limit_val_batches=6"),
    ),
    Study("hippocampus_click", "3d/Task04_Hippocampus", 5, _SHORT),
    Study(
        "hippocampus_click_zoomed",
        "3d/Task04_Hippocampus",
        5,
        ("+data.zoom={_target_: segkit.data.zoom.Zoom, factor: 2.0, size: 128}", *_SHORT),
        experiment="hippocampus_click",
    ),
    Study("polyp", "2d/kvasir_polyp", 6),
    Study("fetal_head", "2d/hc18_fetal_head", 4),
    Study("nuclei", "2d/dsb2018_nuclei", 2),
    Study("nuclei_click", "2d/dsb2018_nuclei", 6, ("trainer.check_val_every_n_epoch=2",)),
    Study("cine_click", "video/sunnybrook_cine_lv", 6, _LESS_OFTEN),
    Study("vessels", "2d/chase_db1_vessels", 2),
    Study("cine_video", "video/sunnybrook_cine_lv", 7, _SHORT),
    Study(
        "cine_video_lora",
        "video/sunnybrook_cine_lv",
        7,
        (*_SHORT, "adapter=lora"),
        experiment="cine_video",
    ),
)


def main() -> None:
    """Run the studies one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--only", nargs="+", choices=[study.name for study in STUDIES])
    parser.add_argument("--time-scale", type=float, default=1.0, help="of the training time")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time, not wall time")
    parser.add_argument("--table", action="store_true", help="only collect what has been run")
    args = parser.parse_args()
    chosen = [study for study in STUDIES if not args.only or study.name in args.only]
    for study in () if args.table else chosen:
        minutes = study.minutes * args.time_scale
        limit = cpu_limit(minutes) if args.cpu_time else wall_limit(minutes)
        reproduce(study, args.data / study.data, args.runs / study.name, limit)
    rows = [row for study in STUDIES for row in collect(study)]
    notes = (
        "Test splits; mean over cases with a 95 % bootstrap interval over subjects. Zero-shot rows "
        "and the ellipse get oracle prompts from the reference; see the definitions in the JSON. "
        "`weights`: first digits of the sha256 of nano; rows without stand on nano2. `train min` "
        "is wall time, also of studies limited by CPU time (see their commands in the JSON), on a "
        "machine that did other work."
    )
    print(table.write("experiments", "Experiments on real data", rows, notes=notes).read_text())


def wall_limit(minutes: float) -> list[str]:
    """Overrides that end a training after so many minutes."""
    limit = f"trainer.max_time=00:{int(minutes // 60):02}:{int(minutes % 60):02}:"
    return [limit + f"{round(minutes % 1 * 60):02}"]


def cpu_limit(minutes: float) -> list[str]:
    """Overrides that end a training after so many minutes of CPU time, all threads together."""
    timer = f"{{_target_: segkit.lightning.CpuTimer, minutes: {minutes}}}"
    return ["trainer.max_time=null", f"+callbacks.timer={timer}"]


def reproduce(study: Study, data: Path, run: Path, limit: Sequence[str]) -> None:
    """Train and evaluate one study; keep its summary with time and peak memory."""
    train = [
        "train",
        f"experiment={study.experiment or study.name}",
        f"data.root={data}",
        f"run={run}",
    ]
    train += [*limit, "trainer.max_epochs=-1", "optimizer.follow=time", *study.overrides]
    seconds = segkit(train)
    peak_mib = json.loads((run / "environment.json").read_text())["result"]["peak_memory_mib"]
    segkit(["eval", f"run={run}", f"data.root={data}"])
    summary = json.loads((run / "eval" / "test" / "summary.json").read_text())
    facts: dict[str, Any] = {"train_minutes": seconds / 60, "train_peak_mib": peak_mib}
    facts["backbone_sha256"] = backbone_of(run / "adapter.safetensors")
    facts["train_command"] = "segkit " + shlex.join(
        word.replace(str(data), study.data) for word in train if not word.startswith("run=")
    )
    SUMMARIES.mkdir(parents=True, exist_ok=True)
    document = {"study": facts, "summary": summary}
    (SUMMARIES / f"{study.name}.json").write_text(json.dumps(document, indent=1) + "\n")


def backbone_of(path: Path) -> str:
    """Hash of the weights that an adapter file was trained on."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["segkit"])["backbone"]["sha256"]


def segkit(words: Sequence[str]) -> float:
    """Run a command; returns its wall time in seconds."""
    print("segkit", *words, flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "segkit.cli.main", *words], check=True)
    return time.perf_counter() - start


def collect(study: Study) -> list[dict[str, Any]]:
    """Table rows of a study that has been run."""
    path = SUMMARIES / f"{study.name}.json"
    if not path.exists():
        return []
    document = json.loads(path.read_text())
    rows = []
    for name, row in document["summary"]["rows"].items():
        mean = row["mean"]
        low, high = mean["dice"]["ci95"]
        rows.append(
            {
                "data": study.name,
                "row": name,
                "Dice": round(mean["dice"]["mean"], 4),
                "95 % interval": f"{low:.3f} to {high:.3f}",
                "NSD": round(mean["nsd"]["mean"], 4),
                "HD95": round(mean["hd95_mm"]["mean"], 2),
                "weights": document["study"].get("backbone_sha256", "")[:8],
                "train min": round(document["study"]["train_minutes"], 1)
                if name == "adapted"
                else None,
                "peak MiB": round(document["study"]["train_peak_mib"])
                if name == "adapted"
                else None,
            }
        )
    return rows


if __name__ == "__main__":
    main()
