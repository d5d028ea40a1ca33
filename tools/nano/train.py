"""Train `nano` from nothing: `python -m tools.nano.train --out runs/nano --minutes 100 --resume`.

One process; pictures are drawn as they are needed. The first phase shows small pictures that lie
anywhere in the frame of the model, which costs a quarter; the last one fills the frame. The
learning rate follows a cosine over the time (or the steps) given, so every budget ends in a
finished model. Stop it at any time and go on with `--resume`: each step draws all its random
numbers from the seed and its own number. `--from FILE` starts from trained weights instead.
"""

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segkit.torchvision_compat  # noqa: F401
from segkit.backbones.checkpoints import file_sha256, load_sam
from segkit.backbones.sam_modules import SIZES, SamModules
from tools.nano.network import initialise
from tools.nano.objects import draw_batch
from tools.nano.step import LossWeights, batch_loss, validate


@dataclass(frozen=True, slots=True)
class Phase:
    """Part of a run, up to a progress `until`: side of the pictures and pictures in a step."""

    until: float
    size: int
    images: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides the result, besides the code."""

    model: str = "nano"
    start: str | None = None
    seed: int = 1
    phases: tuple[Phase, ...] = (Phase(0.45, 128, 8), Phase(1.0, 256, 4))
    objects: int = 4
    rate: float = 5e-4
    decay: float = 0.05
    warmup: int = 100
    balance: tuple[float, float] = (1.0, 0.15)
    blind: int = 250

    def phase(self, progress: float) -> Phase:
        """Phase that a progress (0 to 1) belongs to."""
        return next((one for one in self.phases if progress < one.until), self.phases[-1])


class Training:
    """Model, averaged model and optimiser, with a clock that survives interruptions.

    `start` are the weights that `plan.start`, their hash, names; without both the weights are
    drawn from the seed, and the first steps are blind.
    """

    def __init__(self, plan: Plan, start: Path | None = None) -> None:
        self.plan = plan
        torch.manual_seed(plan.seed)  # what `initialise` leaves as torch draws it
        self.modules = SamModules(SIZES[plan.model])
        initialise(self.modules, plan.seed)
        if start is not None and (found := load_sam(self.modules, start)) != plan.start:
            raise ValueError(f"{start} has the hash {found}, the plan starts from {plan.start}")
        self.average = copy.deepcopy(self.modules).requires_grad_(False).eval()
        weights = list(self.modules.parameters())
        groups = [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": plan.decay},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), fused=True)
        self.step = self.images = 0
        self.seconds = 0.0

    @property
    def is_blind(self) -> bool:
        """Whether the decoder still learns alone; never with weights to start from."""
        return self.plan.start is None and self.step < self.plan.blind

    def rate(self, progress: float) -> float:
        """Learning rate: a cosine down to one hundredth; the encoder's start is warmed up too."""
        begins_here = self.is_blind or self.plan.start is not None
        since = self.step if begins_here else self.step - self.plan.blind
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
        return self.plan.rate * min((since + 1) / self.plan.warmup, 1) * cosine

    def smallest(self, progress: float, size: int) -> float:
        """Least share of the picture that a target covers: large ones first, from nothing.

        Never less than three mask pixels.
        """
        begun = 1.0 if self.plan.start else min(progress / 0.35, 1)
        cell = SIZES[self.plan.model].patch_size // 4
        return max(0.03 * 0.03**begun, 3 * (cell / size) ** 2)

    def weights(self, progress: float) -> LossWeights:
        """Weights of the losses at a progress of the whole run."""
        begun = 1.0 if self.plan.start else min(progress / 0.3, 1)
        first, last = self.plan.balance
        return LossWeights(
            balance=first + (last - first) * min(progress / 0.7, 1), rank=0.1 + 1.9 * begun
        )

    def advance(self, progress: float) -> dict[str, float]:
        """One optimiser step at `progress` (0 to 1) of the whole run; returns the losses."""
        plan, started = self.plan, time.monotonic()
        phase, is_blind = plan.phase(progress), self.is_blind
        batch = draw_batch(
            (plan.seed, self.step), phase.images, plan.objects,
            self.smallest(progress, phase.size), phase.size,
        )  # fmt: skip
        rng = np.random.default_rng((plan.seed, self.step, 77))
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(progress)
        loss, facts = batch_loss(self.modules, batch, rng, self.weights(progress), blind=is_blind)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        facts["norm"] = float(torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0))
        self.optimiser.step()
        self.step += 1
        self.images += phase.images
        keep = min(0.998, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.modules.parameters()), 1 - keep
        )
        self.seconds += time.monotonic() - started
        return facts

    def save(self, path: Path) -> None:
        """Write the whole state; a crash while writing leaves the previous file intact."""
        state = {
            "plan": asdict(self.plan),
            "modules": self.modules.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: the file belongs to another plan.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["plan"] != asdict(self.plan):
            raise ValueError(
                f"{path} was trained with {state['plan']}, this run asks for {asdict(self.plan)};"
                " give the same options or another --out"
            )
        self.modules.load_state_dict(state["modules"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.images, self.seconds = state["step"], state["images"], state["seconds"]


def run(training: Training, out: Path, seconds: float, steps: int | None, every: float) -> None:
    """Train until the time (or the number of steps) is used, saving `every` so many seconds."""
    saved, recent = time.monotonic(), []
    while True:
        progress = training.step / steps if steps else training.seconds / seconds
        if progress >= 1:
            break
        recent.append(training.advance(progress))
        if time.monotonic() - saved > every:
            note(training, out, recent, progress)
            saved, recent = time.monotonic(), []
    note(training, out, recent, 1.0)


def note(training: Training, out: Path, recent: list[dict[str, float]], progress: float) -> None:
    """Save the state and append a line of losses and validation scores to the log."""
    training.save(out / "state.ckpt")
    names = sorted({name for row in recent for name in row})
    losses = {
        name: round(float(np.mean([row[name] for row in recent if name in row])), 4)
        for name in names
    }
    line = {
        "minutes": round(training.seconds / 60, 2),
        "step": training.step,
        "images": training.images,
        "rate": training.rate(progress),
        **losses,
        "dice": {name: round(score, 4) for name, score in validate(training.average).items()},
    }
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m tools.nano.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of state and log")
    parser.add_argument("--minutes", type=float, default=100, help="training time in all")
    parser.add_argument("--steps", type=int, help="train this many steps instead of a time")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    parser.add_argument("--every", type=float, default=300, help="seconds between two log lines")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="nano", choices=sorted(SIZES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=5e-4, help="highest learning rate")
    parser.add_argument(
        "--from", dest="start", type=Path, help="weights to go on from, instead of from nothing"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(model=args.model, seed=args.seed, rate=args.rate)
    if args.start:
        plan = replace(plan, start=file_sha256(args.start), balance=(0.2, 0.1))
    training = Training(plan, args.start)
    if args.resume and (args.out / "state.ckpt").exists():
        training.load(args.out / "state.ckpt")
    run(training, args.out, 60 * args.minutes, args.steps, args.every)


if __name__ == "__main__":
    main()
