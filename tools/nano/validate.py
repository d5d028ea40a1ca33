"""Dice of `nano` on generated pictures it did not see, beside the ellipse in the box.

`python -m tools.nano.validate [--weights FILE] [--images 32]` writes
`benchmarks/results/nano_validation.json`: two objects of each picture, by an exact box and by 1, 3
and 5 central clicks. Training logs hold the same figures, without the ellipse.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import segkit.torchvision_compat  # noqa: F401
from segkit.backbones.checkpoints import load_sam
from segkit.backbones.sam_modules import NANO, SamModules
from segkit.prompts.drawing import draw_marks
from tools.nano.export import WEIGHTS
from tools.nano.step import first_marks, overlap, solid, tensors, validate, validation_batches

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "nano_validation.json"


def ellipses(modules: SamModules, images: int) -> float:
    """Mean Dice of the ellipses drawn in the boxes alone; they look at no pixel."""
    scores = []
    for batch in validation_batches(modules, images):
        truth = solid(tensors(batch, modules)[1])
        marks = first_marks(np.random.default_rng(0), batch, np.ones(len(truth), bool), exact=True)
        points = F.pad(marks.points.flip(-1), (1, 0))
        cell = modules.sizes.patch_size / 4
        drawn = draw_marks(points, marks.labels, tuple(truth.shape[1:]), cell, None, None)
        iou = overlap(drawn, truth)[:, 0]
        scores.append(2 * iou / (1 + iou))
    return float(torch.cat(scores).mean())


def main() -> None:
    """Measure one file of weights."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano.validate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS / "nano.safetensors")
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    modules = SamModules(NANO).eval().requires_grad_(False)
    sha256 = load_sam(modules, args.weights)
    found = {"ellipse in the box": ellipses(modules, args.images)}
    found |= validate(modules, args.images)
    dice = {name: round(value, 4) for name, value in found.items()}
    text = json.dumps({"sha256": sha256, "objects": 2 * args.images, "dice": dice}, indent=2)
    RESULT.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
