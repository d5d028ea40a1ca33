"""Fine-tune a text encoder on captions of one's own.

`python -m tools.text.finetune captions.csv --encoder biomedclip --out encoders/mine --epochs 10`
reads a table (columns image and caption, paths relative to it) and writes an encoder that
`segkit predict --text-encoder encoders/mine` takes. Go on with `--resume`.
"""

import argparse
import json
import os
from pathlib import Path

import torch

from segkit.models.text_encoder import KEPT, load_text_encoder, save_text_encoder, sizes_of
from segkit.models.weights import home_folder
from segkit.text.pairs import LEAST_CHARACTERS, CaptionBatches, read_captions
from segkit.text.training import ContrastiveTraining, TrainingPlan


def run(training: ContrastiveTraining, out: Path, steps: int, *, every: int, passes: int) -> None:
    """Train until `steps` are done; state and log are written `every` so many steps."""
    while training.step < steps:
        facts = training.advance(training.step / steps)
        if training.step % every == 0 or training.step == steps:
            part = out / "state.ckpt.part"
            torch.save(training.state(), part)
            os.replace(part, out / "state.ckpt")
            line = {"step": training.step, "pass": training.step // max(passes, 1), **facts}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m tools.text.finetune", description=__doc__)
    parser.add_argument("captions", type=Path, help="CSV or JSONL table of images and captions")
    parser.add_argument("--encoder", default="nano_clip", help="name, folder or file to start from")
    parser.add_argument("--out", type=Path, required=True, help="folder of state, log and encoder")
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-6)
    parser.add_argument("--tau", type=float, default=0.6)
    parser.add_argument("--beta", type=float, default=0.15)
    parser.add_argument("--least-characters", type=int, default=LEAST_CHARACTERS)
    parser.add_argument("--compat", choices=("authors",), help="the released loss, for parity only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--every", type=int, default=50, help="steps between two states")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    args = parser.parse_args()
    encoder = load_text_encoder(args.encoder, device=args.device)
    files = read_captions(args.captions, least_characters=args.least_characters)
    plan = TrainingPlan("dhn_nce", args.tau, args.beta, rate=args.rate, compat=args.compat)
    batches = CaptionBatches(files, size=encoder.spec.image_size, batch=args.batch, seed=plan.seed)
    training = ContrastiveTraining(encoder, plan, batches)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.resume and (args.out / "state.ckpt").exists():
        training.resume(torch.load(args.out / "state.ckpt", weights_only=True))
    passes = batches.steps_per_pass
    run(training, args.out, args.epochs * passes, every=args.every, passes=passes)
    sizes, folder = sizes_of(encoder), None
    if sizes is None:
        folder = home_folder() / "models" / args.encoder if args.encoder in KEPT else args.encoder
    path = args.out if sizes is None else args.out / "encoder.safetensors"
    print(path, save_text_encoder(encoder, path, sizes=sizes, folder=folder))


if __name__ == "__main__":
    main()
