"""Contrastive training of an encoder: from nothing, or on captions of one's own."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from segkit.errors import InputError
from segkit.text.contrastive import Compat, DecoupledHardNegative, InfoNce
from segkit.text.encoder import TextImageEncoder
from segkit.typing import Image

Objective = Literal["dhn_nce", "info_nce"]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """A batch: images in [0, 1], and lists of captions, each with one caption of every image."""

    images: Image
    captions: tuple[Sequence[str], ...]


Draw = Callable[[int], Pairs]
"""The batch of a step; the same step gives the same batch, so that a run can be resumed."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that decides the result besides encoder and data.

    Defaults are those of MedCLIP-SAMv2 for BiomedCLIP: DHN-NCE with temperature `tau` and hardness
    `beta`, AdamW at `rate`. The rate is warmed up over `warmup` steps and falls along a cosine to
    the share `floor`. `info_nce` is the loss of CLIP, with the temperature that the model learns.
    """

    objective: Objective = "dhn_nce"
    tau: float = 0.6
    beta: float = 0.15
    rate: float = 1e-6
    decay: float = 0.1
    warmup: int = 50
    floor: float = 0.5
    seed: int = 1
    compat: Compat = None

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise InputError(f"objective {self.objective!r} is not one of {get_args(Objective)}")
        if self.rate <= 0 or self.decay < 0 or self.warmup < 1 or not 0 <= self.floor <= 1:
            raise InputError(
                "rate must be > 0, decay >= 0, warmup >= 1 and floor in [0, 1], got "
                f"{self.rate}, {self.decay}, {self.warmup} and {self.floor}"
            )


class ContrastiveTraining:
    """Encoder, loss and optimiser; `step` and `seconds` survive interruptions.

    `seconds` is processor time, so that a budget means the same on a busy machine.

    Raises:
        InputError: The plan holds a value that the loss refuses.
    """

    def __init__(self, encoder: TextImageEncoder, plan: TrainingPlan, draw: Draw) -> None:
        self.encoder, self.plan, self.draw = encoder.train(), plan, draw
        self.hard = DecoupledHardNegative(
            plan.tau, plan.beta, beta_text=plan.beta, compat=plan.compat
        )
        self.plain = InfoNce()
        weights = [weight for weight in encoder.parameters() if weight.requires_grad]
        groups = [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": plan.decay},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98))
        self.step, self.seconds = 0, 0.0

    def rate(self, progress: float) -> float:
        """Learning rate at `progress` (0 to 1) of the whole run."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
        shape = self.plan.floor + (1 - self.plan.floor) * cosine
        return self.plan.rate * min((self.step + 1) / self.plan.warmup, 1) * shape

    def advance(self, progress: float) -> dict[str, float]:
        """One optimiser step; returns loss and gradient norm."""
        started = time.process_time()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(progress)
        loss = self.loss(self.draw(self.step))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():  # CLIP: the temperature stays above 0.01
            self.encoder.model.logit_scale.clamp_(0, math.log(100))  # type: ignore[operator]
        self.step += 1
        self.seconds += time.process_time() - started
        return {"loss": loss.item(), "norm": norm.item()}

    def loss(self, pairs: Pairs) -> Float[Tensor, ""]:
        """Mean loss over the lists of captions of a batch."""
        device = self.encoder.device
        images = self.encoder.encode_image(self.encoder.pixels(pairs.images.to(device)))
        losses = []
        for captions in pairs.captions:
            texts = self.encoder.encode_text(captions)
            if self.plan.objective == "dhn_nce":
                losses.append(self.hard(images, texts))
            else:
                losses.append(self.plain(images, texts, self.encoder.logit_scale))
        return torch.stack(losses).mean()

    def state(self) -> dict[str, Any]:
        """All that `resume` needs: tensors, numbers and texts."""
        return {
            "plan": asdict(self.plan),
            "model": self.encoder.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            InputError: It belongs to another plan.
        """
        if state["plan"] != asdict(self.plan):
            raise InputError(
                f"the state was trained with {state['plan']}, this run asks for "
                f"{asdict(self.plan)}",
                fix="give the same options, or another output folder",
            )
        self.encoder.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
