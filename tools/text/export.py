"""Write a trained `nano_clip` as the shipped files.

`python -m tools.text.export --run runs/nano_clip` writes `segkit/weights/nano_clip.safetensors`
(half precision, sizes and words in its header), `nano_clip.json` (hash, training facts) and copies
the log. The saliency settings are chosen on generated validation pictures.
"""

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from segkit.models.text_encoder import save_text_encoder
from segkit.text.encoder import TextImageEncoder
from segkit.text.settings import SaliencySettings
from tools.nano.export import WEIGHTS, read_log
from tools.text.card import write_card
from tools.text.choose import choose
from tools.text.train import PLAN, SIZES, VALIDATE, start


def export(
    run: Path, folder: Path, *, pictures: int = 24, settings: SaliencySettings | None = None
) -> dict[str, Any]:
    """Write weights and facts into `folder`; returns the facts."""
    state: dict[str, Any] = torch.load(run / "state.ckpt", weights_only=True)
    training = start(state["plan"]["seed"], state["batch"], phrases=state.get("phrases", False))
    training.resume(state)
    encoder = training.encoder.eval()
    table: list[dict[str, Any]] = []
    if settings is None:
        settings, table = choose(encoder, VALIDATE, pictures)
    encoder = TextImageEncoder(
        encoder.model, encoder.tokenizer, spec=replace(encoder.spec, saliency=settings)
    )
    name = encoder.spec.name
    path = folder / f"{name}.safetensors"
    digest = save_text_encoder(encoder, path, sizes=SIZES, half=True)
    log = read_log(run)
    facts = {
        "format": 1,
        "name": name,
        "file": path.name,
        "sha256": digest,
        "bytes": path.stat().st_size,
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
        "dtype": "float16",
        "licence": "Apache-2.0",
        "sizes": SIZES.to_dict(),
        "saliency": settings.to_dict(),
        "saliency_candidates": table,
        "training": {
            "data": "tools.text.pictures, generated captioned pictures only",
            "recipe": "python -m tools.text.train",
            "plan": state["plan"],
            "objective": PLAN.objective,
            "phrases": training.phrases,
            "steps": state["step"],
            "images": state["step"] * state["batch"],
            "processor_minutes": round(state["seconds"] / 60, 1),
            "torch": torch.__version__,
            "scores_on_generated_pictures": {
                key: log[-1][key] for key in ("retrieval", "tone", "shape", "pointing", "chance")
            },
        },
    }
    part = folder / f".{name}.json.part"
    part.write_text(json.dumps(facts, indent=1) + "\n")
    os.replace(part, folder / f"{name}.json")
    return facts


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m tools.text.export", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder given to train as --out")
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--card", type=Path, help="also write the facts into this model card")
    parser.add_argument("--log", type=Path, help="also copy the log there")
    parser.add_argument("--pictures", type=int, default=24, help="to choose settings on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    facts = export(args.run, args.folder, pictures=args.pictures)
    print(json.dumps(facts, indent=1))
    if args.card:
        write_card(args.card, facts)
    if args.log:
        shutil.copyfile(args.run / "log.jsonl", args.log)


if __name__ == "__main__":
    main()
