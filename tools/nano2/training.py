"""A stage of training that can be stopped at any time, and keeps its best weights."""

import copy
import json
import math
import time
from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides the result of a stage, besides the code and the time."""

    stage: str
    model: str = "nano2"
    seed: int = 1
    size: int = 128
    batch: int = 8
    objects: int = 4
    rate: float = 5e-4
    decay: float = 0.05
    warmup: int = 100
    blind: int = 0


class Stage:
    """Weights, their moving average and an optimiser, with a clock that survives interruptions.

    A subclass draws batches and computes losses (`loss`) and scores averaged weights (`score`).
    """

    def __init__(self, plan: Plan, modules: nn.Module) -> None:
        self.plan, self.modules = plan, modules
        self.average = copy.deepcopy(modules).requires_grad_(False).eval()
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, weight in modules.named_parameters():
            if weight.requires_grad:
                decay = plan.decay if weight.ndim > 1 else 0.0
                groups.setdefault((self.share(name), decay), []).append(weight)
        rows = [
            {"params": weights, "share": share, "weight_decay": decay}
            for (share, decay), weights in groups.items()
        ]
        self.optimiser = torch.optim.AdamW(rows, lr=plan.rate, betas=(0.9, 0.98), fused=True)
        self.step, self.seconds, self.best = 0, 0.0, -1.0

    @abstractmethod
    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Loss of the batch of this step, and what to log."""

    @abstractmethod
    def score(self) -> dict[str, float]:
        """Scores of the averaged weights on fixed generated data; "mean" decides what is kept."""

    def share(self, name: str) -> float:  # noqa: ARG002
        """Learning rate of a parameter as a share of the plan's."""
        return 1.0

    def rate(self, progress: float) -> float:
        """Learning rate: a cosine down to one hundredth, warmed up again after the blind steps."""
        since = self.step if self.step < self.plan.blind else self.step - self.plan.blind
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
        return self.plan.rate * min((since + 1) / self.plan.warmup, 1) * cosine

    def advance(self, progress: float) -> dict[str, float]:
        """One optimiser step at `progress` (0 to 1) of the whole stage; returns what to log."""
        started = time.monotonic()
        for group in self.optimiser.param_groups:
            group["lr"] = group["share"] * self.rate(progress)
        loss, facts = self.loss(progress)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.step += 1
        keep = min(0.998, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.modules.parameters()), 1 - keep
            )
        self.seconds += time.monotonic() - started
        return facts | {"norm": float(norm)}

    def save(self, path: Path) -> None:
        """Write the whole state; a crash while writing leaves the previous file intact."""
        state = {
            "plan": asdict(self.plan),
            "modules": self.modules.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
        }
        _write(path, state)

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
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]


def run(stage: Stage, out: Path, seconds: float, every: float, steps: int | None = None) -> None:
    """Train until the time (or the number of steps) is used, saving `every` so many seconds."""
    saved, recent = time.monotonic(), []
    while (progress := stage.step / steps if steps else stage.seconds / seconds) < 1:
        recent.append(stage.advance(progress))
        if time.monotonic() - saved > every:
            _note(stage, out, recent, progress)
            saved, recent = time.monotonic(), []
    _note(stage, out, recent, 1.0)


def _note(stage: Stage, out: Path, recent: list[dict[str, float]], progress: float) -> None:
    """Save state and best weights and append losses and scores to the log."""
    path = out / f"{stage.plan.stage}.ckpt"
    stage.save(path)  # before anything that could fail
    scores = stage.score()
    if scores["mean"] > stage.best:
        stage.best = scores["mean"]
        facts = {"step": stage.step, "seconds": stage.seconds, "scores": scores}
        weights = {"plan": asdict(stage.plan), "average": stage.average.state_dict()}
        _write(out / f"{stage.plan.stage}_best.ckpt", weights | facts)
        stage.save(path)
    names = sorted({name for row in recent for name in row})
    means = {name: np.mean([row[name] for row in recent if name in row]) for name in names}
    line = {
        "stage": stage.plan.stage,
        "minutes": round(stage.seconds / 60, 2),
        "step": stage.step,
        "samples": stage.step * stage.plan.batch,
        "rate": stage.rate(progress),
        **{name: round(float(value), 4) for name, value in means.items()},
        "dice": {name: round(score, 4) for name, score in scores.items()},
    }
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def _write(path: Path, state: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
