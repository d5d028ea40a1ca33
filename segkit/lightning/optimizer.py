"""Parameter groups by part of the model, and a learning rate that follows the training."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from segkit.models.segmenter import Segmenter

PARTS = ("adapter", "decoder", "prompt_encoder", "encoder")
"""Parts of a model that can have a learning rate of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerPlan:
    """Which optimiser, which learning rate for which part, and how it changes.

    `lr` holds for every part that `lr_by_part` does not name. `algorithm` is called with the
    parameter groups. The rate rises linearly over the share `warmup` of the training, then falls to
    `floor` times its peak by a half cosine or a line ("linear"), stays ("constant"), or is halved
    half-way ("halved"). `follow` says what counts as progress: "steps" (exact resume) or "time" for
    runs limited by `max_time`, whose number of steps nobody knows.

    Example:
        >>> OptimizerPlan(lr=1e-3, warmup=0.1).factor(0.05)
        0.5
    """

    lr: float = 1e-3
    lr_by_part: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01
    algorithm: Callable[..., Optimizer] = torch.optim.AdamW
    warmup: float = 0.05
    schedule: Literal["cosine", "linear", "constant", "halved"] = "cosine"
    floor: float = 0.01
    follow: Literal["steps", "time"] = "steps"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.lr_by_part) - set(PARTS)):
            raise ValueError(f"lr_by_part names {unknown}; allowed: {list(PARTS)}")
        for name, rate in {"lr": self.lr, **self.lr_by_part}.items():
            if not 0 <= rate < math.inf:
                raise ValueError(f"learning rate {name!r} must be >= 0 and finite, got {rate}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the training in [0, 1), got {self.warmup}")
        if self.schedule not in ("cosine", "linear", "constant", "halved"):
            raise ValueError(
                "schedule must be 'cosine', 'linear', 'constant' or 'halved', got "
                f"{self.schedule!r}"
            )
        if self.follow not in ("steps", "time"):
            raise ValueError(f"follow must be 'steps' or 'time', got {self.follow!r}")

    def factor(self, progress: float) -> float:
        """Factor on the learning rate at `progress` in [0, 1] of the training."""
        if progress < self.warmup:
            return max(progress / self.warmup, 1e-3)
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "halved":
            return 1.0 if progress < 0.5 else 0.5
        done = min((progress - self.warmup) / (1 - self.warmup), 1.0)
        left = 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.floor + (1 - self.floor) * left

    def build(self, segmenter: Segmenter) -> Optimizer:
        """Build the optimiser over all trainable parameters.

        Biases, norms and single vectors are not decayed.

        Raises:
            ValueError: Nothing is trainable.
        """
        groups: dict[tuple[str, bool], dict[str, Any]] = {}
        for name, parameter in trainable_parameters(segmenter).items():
            part, is_decayed = part_of(name, segmenter), parameter.ndim > 1
            group = groups.setdefault(
                (part, is_decayed),
                {
                    "name": part + ("" if is_decayed else "/no_decay"),
                    "params": [],
                    "lr": self.lr_by_part.get(part, self.lr),
                    "weight_decay": self.weight_decay if is_decayed else 0.0,
                },
            )
            group["params"].append(parameter)
        if not groups:
            raise ValueError("no parameter is trainable; choose an adapter or trainable='all'")
        return self.algorithm(list(groups.values()))


def trainable_parameters(segmenter: Segmenter) -> dict[str, nn.Parameter]:
    """Parameters that get a gradient, by name."""
    return {name: p for name, p in segmenter.named_parameters() if p.requires_grad}


def part_of(name: str, segmenter: Segmenter) -> str:
    """Part a parameter belongs to; what an adapter puts into a frozen encoder is the adapter's."""
    if not name.startswith("backbone."):
        return name.partition(".")[0]
    is_encoder = name.startswith("backbone.encoder.") and segmenter.backbone.trainable
    return "encoder" if is_encoder else "adapter"
