"""Clicks in volumes: adapted volumetric nano, and nano slice by slice with propagation.

Run: python -m benchmarks.hippocampus_3d_clicks --data Task04_Hippocampus [--minutes 6]

Trains `experiment=hippocampus_3d_click` on one thread, then `segkit eval` clicks on the test split
through the sessions a person would use: the first click lies deepest in the object, each later one
deepest in the largest error of the mask so far (an oracle). Each step is a command that is printed
as it runs. Results: results/hippocampus_3d_clicks.*; models without prompts, trained as long, are
in results/hippocampus_3d.*.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.hippocampus_3d import Study, segkit, train
from segkit.models.sources import package_file

CLICKS = (1, 3, 5)
STUDY = Study("sam3d_nano + Spatial", "hippocampus_3d_click")
SLICES = "nano zero-shot, slice by slice, propagated"


def main() -> None:
    """Train, click and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/hippocampus_3d"))
    parser.add_argument("--minutes", type=float, default=6.0, help="of training")
    parser.add_argument("--volumes", type=int, default=10, help="of the test split, evenly chosen")
    args = parser.parse_args()
    run = args.runs / STUDY.experiment
    if not (run / "adapter.safetensors").exists():
        train(STUDY, args.data, run, args.minutes)
    facts = json.loads((run / "environment.json").read_text())["result"]
    lifted = clicked(str(run), args.data, run / "eval" / "clicks", args.volumes)
    sliced = clicked("nano", args.data, args.runs / "nano_clicks", args.volumes)
    rows = rows_of(STUDY.name, lifted, "adapted") + rows_of(SLICES, sliced, "zero_shot")
    notes = (
        f"{lifted['cases']} test volumes, both parts of the hippocampus are objects of their own; "
        "mean over volumes of the mean over parts, 95 % bootstrap interval over volumes; NSD at "
        f"1 mm. Training: {facts['seconds'] / 60:.1f} minutes of one thread, {facts['steps']} "
        f"steps. Weights of nano: sha256 {nano_sha256()[:12]}."
    )
    print(table.write("hippocampus_3d_clicks", "Clicks in volumes", rows, notes=notes).read_text())


def clicked(model: str, data: Path, out: Path, volumes: int) -> dict[str, Any]:
    """Summary of a model that is clicked in volumes."""
    words = ["eval", f"run={model}", f"data.root={data}", f"out={out}", "prompt.kind=clicks"]
    words += ["prompt.per=volume", f"prompt.counts={list(CLICKS)}", f"settings.limit={volumes}"]
    segkit([*words, "settings.baselines=[]", "settings.robustness.cases=0"])
    return json.loads((out / "summary.json").read_text())


def rows_of(title: str, summary: dict[str, Any], name: str) -> list[table.Row]:
    """Lines of the table, one for each number of clicks."""
    found = []
    needed = summary["interactions"][name]["clicks_to_dice"]["0.8"]
    for count in CLICKS:
        row = name if count == CLICKS[0] else f"{name}_{count}_clicks"
        mean = summary["rows"][row]["mean"]
        low, high = mean["dice"]["ci95"]
        parts = {
            one["name"]: round(one["dice"]["mean"], 3)
            for one in summary["rows"][row]["classes"].values()
        }
        found.append(
            {
                "model": title,
                "clicks": count,
                "Dice": round(mean["dice"]["mean"], 4),
                "95 % interval": f"{low:.3f} to {high:.3f}",
                **parts,
                "NSD": round(mean["nsd"]["mean"], 3),
                "reach Dice 0.8 in 5": f"{needed['reached']:.0%}",
                "volumes": summary["cases"],
            }
        )
    return found


def nano_sha256() -> str:
    """Hash of the weights in the package."""
    return package_file("nano")[1]


if __name__ == "__main__":
    main()
