"""Write the averaged weights of a run as the shipped files.

`python -m tools.nano.export --run runs/nano` writes `segkit/weights/nano.safetensors` (half
precision, official SAM key names), `nano.json` (sizes, hash, training facts) and, with
`--curve`, a picture of the learning curve. Files appear whole or not at all.
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import segkit.torchvision_compat  # noqa: F401
from segkit.backbones.checkpoints import write_safetensors
from segkit.backbones.sam_modules import SIZES, SamModules

WEIGHTS = Path(__file__).parents[2] / "segkit" / "weights"
CURVES = ("box", "click1", "click1_oracle", "click3", "click5")


def read_log(run: Path) -> list[dict[str, Any]]:
    """Lines of the training log, oldest first."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def one_after_the_other(logs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Join logs of runs that started from each other; `images` counts on."""
    joined: list[dict[str, Any]] = []
    for log in logs:
        before = joined[-1]["images"] if joined else 0
        joined += [{**line, "images": before + line["images"]} for line in log]
    return joined


def started_from(sha256: str | None, path: Path) -> dict[str, Any]:
    """Training facts of the weights that a run started from, out of the facts file at `path`.

    Raises:
        ValueError: the file tells about other weights.
    """
    if sha256 is None:
        return {}
    facts = json.loads(path.read_text())
    if facts["sha256"] != sha256:
        raise ValueError(
            f"the run started from {sha256}, {path} tells about {facts['sha256']};"
            " export beside the facts of the weights it started from"
        )
    return {"started_from": {"sha256": sha256, **facts["training"]}}


def export(run: Path, folder: Path) -> dict[str, Any]:
    """Write weights and facts into `folder`; returns the facts."""
    state: dict[str, Any] = torch.load(run / "state.ckpt", weights_only=True)
    plan = state["plan"]
    modules = SamModules(SIZES[plan["model"]])
    modules.load_state_dict(state["average"])
    name, log = plan["model"], read_log(run)
    last = max((line for line in log if line["step"] <= state["step"]), key=lambda x: x["step"])
    origin = started_from(plan["start"], folder / f"{name}.json")
    half = {key: value.half() for key, value in modules.state_dict().items()}
    path = folder / f"{name}.safetensors"
    digest = write_safetensors(path, half, {"licence": "Apache-2.0", "name": name})
    facts = {
        "format": 1,
        "name": name,
        "file": path.name,
        "sha256": digest,
        "bytes": path.stat().st_size,
        "parameters": sum(weight.numel() for weight in modules.parameters()),
        "dtype": "float16",
        "licence": "Apache-2.0",
        "sizes": asdict(SIZES[name]),
        "training": {
            "data": "segkit.data.phantom.phantom_picture, generated pictures only",
            "recipe": "python -m tools.nano.train",
            "plan": plan,
            "steps": state["step"],
            "images": state["images"],
            "minutes": round(state["seconds"] / 60, 1),
            "torch": torch.__version__,
            "dice_on_generated_pictures": last["dice"],
            **origin,
        },
    }
    part = folder / f".{name}.json.part"
    part.write_text(json.dumps(facts, indent=1) + "\n")
    os.replace(part, folder / f"{name}.json")
    return facts


def draw_curve(log: list[dict[str, Any]], path: Path) -> None:
    """Plot the Dice on generated validation pictures and the training losses over images seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    scores, losses = figure.subplots(1, 2)
    images = [line["images"] / 1000 for line in log]
    for name in CURVES:
        scores.plot(images, [line["dice"][name] for line in log], label=name)
    scores.set(xlabel="generated images seen (thousands)", ylabel="mean Dice", ylim=(0, 1))
    for turn, label in enumerate(("first prompt", "after one correction", "after two")):
        points = [(x, line[f"loss{turn}"]) for x, line in zip(images, log, strict=True)
                  if f"loss{turn}" in line]  # fmt: skip
        losses.plot(*zip(*points, strict=True), label=label)
    losses.set(xlabel="generated images seen (thousands)", ylabel="training loss of the mask")
    for axes in (scores, losses):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano.export", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder given to train as --out")
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--curve", type=Path, help="also draw the learning curve into this PNG")
    parser.add_argument(
        "--before", type=Path, nargs="+", default=[], help="folders of the runs it started from"
    )
    args = parser.parse_args()
    print(json.dumps(export(args.run, args.folder), indent=1))
    if args.curve:
        logs = [read_log(run) for run in (*args.before, args.run)]
        draw_curve(one_after_the_other(logs), args.curve)


if __name__ == "__main__":
    main()
