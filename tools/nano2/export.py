"""Write the best averaged weights of a run as the shipped files.

`python -m tools.nano2.export --run runs/nano2` writes `segkit/weights/nano2.safetensors` (half
precision, official SAM 2 key names, image and memory half), `nano2.json` (sizes, hash, training
facts) and, with `--curve`, a picture of the learning curves. Files appear whole or not at all.
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
from segkit.backbones.sam2_checkpoints import to_official
from segkit.backbones.sam2_modules import SAM2_SIZES, Sam2Modules
from tools.nano.export import WEIGHTS, read_log
from tools.nano2.network import make_memory


def export(run: Path, folder: Path) -> dict[str, Any]:
    """Write weights and facts into `folder`; returns the facts."""
    best: dict[str, Any] = torch.load(run / "clips_best.ckpt", weights_only=True)
    name = best["plan"]["model"]
    sizes = SAM2_SIZES[name]
    modules, memory = Sam2Modules(sizes), make_memory(sizes)
    halves = torch.nn.ModuleDict({"image": modules, "memory": memory})
    halves.load_state_dict(best["average"])
    state = {**to_official(modules.state_dict()), **memory.state_dict()}
    half = {key: value.half().contiguous() for key, value in state.items()}
    path = folder / f"{name}.safetensors"
    digest = write_safetensors(path, half, {"licence": "Apache-2.0", "name": name})
    parts = {
        "image": sum(weight.numel() for weight in modules.parameters()),
        "memory": sum(weight.numel() for weight in memory.parameters()),
    }
    facts = {
        "format": 1,
        "name": name,
        "file": path.name,
        "sha256": digest,
        "bytes": path.stat().st_size,
        "parameters": sum(parts.values()),
        "parts": parts,
        "dtype": "float16",
        "licence": "Apache-2.0",
        "sizes": asdict(sizes),
        "training": {
            "data": "segkit.data.phantom pictures and clips, generated only; prompt encoder and "
            "mask decoder start from nano, which was trained on the same",
            "recipe": "python -m tools.nano2.train",
            "stages": [_stage(run, stage) for stage in ("pictures", "clips")],
            "torch": torch.__version__,
        },
    }
    part = folder / f".{name}.json.part"
    part.write_text(json.dumps(facts, indent=1) + "\n")
    os.replace(part, folder / f"{name}.json")
    return facts


def _stage(run: Path, stage: str) -> dict[str, Any]:
    """What is known of the best weights of a stage."""
    best: dict[str, Any] = torch.load(run / f"{stage}_best.ckpt", weights_only=True)
    return {
        "plan": best["plan"],
        "steps": best["step"],
        "samples": best["step"] * best["plan"]["batch"],
        "minutes": round(best["seconds"] / 60, 1),
        "dice_on_generated_data": {k: round(v, 4) for k, v in best["scores"].items()},
    }


def draw_curves(log: list[dict[str, Any]], path: Path) -> None:
    """Plot the Dice on generated validation data over the samples seen, stage by stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    titles = {"pictures": "stage 1: pictures", "clips": "stage 2: clips"}
    for axes, (stage, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        lines = [line for line in log if line["stage"] == stage]
        seen = [line["samples"] / 1000 for line in lines]
        for name in lines[0]["dice"] if lines else ():
            if name != "mean":
                axes.plot(seen, [line["dice"][name] for line in lines], label=name)
        axes.set(
            xlabel=f"generated {stage} seen (thousands)",
            ylabel="mean Dice (visible: share right)",
            ylim=(0, 1),
            title=title,
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano2.export", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder given to train as --out")
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--curve", type=Path, help="also draw the learning curves into this PNG")
    args = parser.parse_args()
    print(json.dumps(export(args.run, args.folder), indent=1))
    if args.curve:
        draw_curves(read_log(args.run), args.curve)


if __name__ == "__main__":
    main()
