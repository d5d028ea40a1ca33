"""Train `nano2` from nothing: `python -m tools.nano2.train --out runs/nano2 --resume`.

Two stages, one process: the image half on generated pictures, then image and memory half on
generated clips. The learning rate of each stage follows a cosine over the minutes given, so every
budget ends in a finished model. Stop it at any time and go on with `--resume`: each step draws all
its random numbers from the seed and its own number.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

import segkit.torchvision_compat  # noqa: F401
from segkit.backbones.sam2_modules import SAM2_SIZES, Sam2Modules
from segkit.models.tracker import Tracker
from tools.nano.objects import draw_batch
from tools.nano2 import pictures, tracking
from tools.nano2.network import assemble, initialise, initialise_memory, make_memory
from tools.nano2.pool import Pool, encode_clip
from tools.nano2.training import Plan, Stage, run

STAGES = ("pictures", "clips")


class Pictures(Stage):
    """Stage 1: the image half learns to answer clicks and boxes on pictures."""

    modules: Sam2Modules

    def __init__(self, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        modules = Sam2Modules(SAM2_SIZES[plan.model])
        initialise(modules, plan.seed)
        segmenter = assemble(modules)
        super().__init__(plan, modules)
        self.segmenter = segmenter

    @override
    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]:
        plan, step = self.plan, self.step
        smallest = 0.03 * (0.1 ** min(progress / 0.35, 1))
        batch = draw_batch((plan.seed, step), plan.batch, plan.objects, smallest, plan.size)
        rng = np.random.default_rng((plan.seed, step, 77))
        batch = pictures.turned(batch, rng)
        blind = step < plan.blind
        return pictures.picture_loss(self.segmenter, batch, rng, progress, blind=blind)

    @override
    def score(self) -> dict[str, float]:
        scores = pictures.validate(assemble(self.average).requires_grad_(False), self.plan.size)
        return scores | {"mean": float(np.mean(list(scores.values())))}


class Clips(Stage):
    """Stage 2: the memory learns to track; the decoder goes on learning, the encoder is frozen.

    Frames are encoded once, for a pool of clips of which each step renews one.
    """

    modules: nn.ModuleDict
    pooled = 160
    checked = 32
    options: ClassVar = {"frames": 6, "objects": 3}

    def __init__(self, plan: Plan, image_half: Sam2Modules) -> None:
        segmenter = assemble(image_half)
        image_half.image_encoder.requires_grad_(False)
        segmenter.backbone.requires_grad_(False)
        self.options = self.options | {"size": plan.size}
        torch.manual_seed(plan.seed)
        memory = make_memory(image_half.sizes)
        self.checks = [
            encode_clip(segmenter, (777, number), **self.options) for number in range(self.checked)
        ]
        coarse = torch.cat([one.levels[-1] for one in self.checks]).float()
        initialise_memory(memory, coarse, plan.seed)
        super().__init__(plan, nn.ModuleDict({"image": image_half, "memory": memory}))
        self.tracker = Tracker(segmenter, memory)
        self.pool: Pool | None = None

    @override
    def share(self, name: str) -> float:
        return 0.3 if name.startswith("image.") else 1.0

    @override
    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]:
        plan, step = self.plan, self.step
        if self.pool is None:
            segmenter = self.tracker.segmenter
            self.pool = Pool(segmenter, plan.seed, step, self.pooled, **self.options)
        self.pool.renew(step)
        rng = np.random.default_rng((plan.seed, step, 78))
        self.tracker.train()
        return tracking.clip_loss(self.tracker, self.pool.draw(rng, plan.batch), rng, progress)

    @override
    def score(self) -> dict[str, float]:
        halves: Any = self.average
        tracker = Tracker(assemble(halves["image"]), halves["memory"]).eval().requires_grad_(False)
        scores = tracking.validate(tracker, self.checks)
        return scores | {"mean": (scores["box"] + scores["mask"]) / 2}


def image_half(path: Path, model: str) -> Sam2Modules:
    """The best averaged weights of stage 1."""
    modules = Sam2Modules(SAM2_SIZES[model])
    modules.load_state_dict(torch.load(path, weights_only=True)["average"])
    return modules


def go_on(stage: Stage, folder: Path, *, resume: bool) -> None:
    """Load the saved state of a stage, if there is one and it is wanted."""
    path = folder / f"{stage.plan.stage}.ckpt"
    if resume and path.exists():
        stage.load(path)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano2.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of states and log")
    parser.add_argument("--minutes", type=float, nargs=2, default=(45, 30), help="of each stage")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--resume", action="store_true", help="go on from the states in --out")
    parser.add_argument("--every", type=float, default=240, help="seconds between two log lines")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="nano2", choices=sorted(SAM2_SIZES))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(stage="pictures", model=args.model, seed=args.seed)
    if "pictures" in args.stages:
        pictures_stage = Pictures(plan)
        go_on(pictures_stage, args.out, resume=args.resume)
        run(pictures_stage, args.out, 60 * args.minutes[0], args.every)
    if "clips" in args.stages:
        plan = replace(plan, stage="clips", batch=4, warmup=50, objects=3)
        clips_stage = Clips(plan, image_half(args.out / "pictures_best.ckpt", args.model))
        go_on(clips_stage, args.out, resume=args.resume)
        run(clips_stage, args.out, 60 * args.minutes[1], args.every)


if __name__ == "__main__":
    main()
