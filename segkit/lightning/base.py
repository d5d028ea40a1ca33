"""Training logic, once: loss, validation Dice, optimiser, resume and what is not finite."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from segkit.data.batches import ImageBatch
from segkit.errors import CheckpointError
from segkit.lightning.close_ups import CloseUps
from segkit.lightning.finite import FiniteGuard
from segkit.lightning.optimizer import OptimizerPlan, trainable_parameters
from segkit.lightning.stems import StemCache
from segkit.lightning.tally import CaseTally
from segkit.losses import iou_head_loss
from segkit.models.segmenter import Segmenter, upsample
from segkit.typing import Features, Maps, MaskPrediction

_REFINED_FROM_EPOCH = 5
Loss = Callable[[Tensor, Tensor], Tensor]
_VALIDATION = 1_000_003  # keeps the random numbers of validation apart from those of training


@dataclass(frozen=True, slots=True)
class BatchPrediction:
    """What a module predicted for a batch, in one or several rounds of interaction.

    `target` is what the loss wants: a class map `[images h w]` or masks `[rows masks h w]`, with
    a depth before h in volumes. In interactive mode rows are objects; `image_index` names the
    image, `classes` the class of each. `close_ups` says through which windows objects were seen.
    """

    rounds: tuple[MaskPrediction, ...]
    target: Tensor
    image_index: Int[Tensor, " rows"] | None = None
    classes: Int[Tensor, " rows"] | None = None
    close_ups: CloseUps | None = None


class SegmentationModule(LightningModule):
    """Train a `Segmenter`; subclasses say how a batch is predicted.

    All random numbers of a step come from (seed, epoch, batch, rank), so a resumed run needs no
    generator state. `labels` are names by class; `iou_weight` weighs the squared error of the
    predicted IoU; `guard` decides about steps that are not finite.
    """

    reads_stems: ClassVar[bool] = False
    """Whether a batch is encoded image by image with `encode`, so that frozen parts can be kept."""

    strict_loading = False  # checkpoints hold the trained part only; it is checked on its own

    def __init__(
        self,
        segmenter: Segmenter,
        loss: Loss,
        *,
        optimizer: OptimizerPlan | None = None,
        labels: Mapping[int, str] | None = None,
        iou_weight: float = 0.0,
        guard: FiniteGuard | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.segmenter, self.loss, self.seed = segmenter, loss, seed
        self.plan = optimizer or OptimizerPlan()
        self.labels = dict(labels or {1: "object"})
        self.iou_weight, self.guard = iou_weight, guard or FiniteGuard()
        self.tally = CaseTally(len(self.labels))
        self.stems: StemCache | None = None
        self._is_skipped = False

    def encode(self, batch: ImageBatch) -> Features:
        """Encode the images of a batch, by what is kept of their frozen part."""
        if self.stems is None or (self.training and not self.stems.in_training):
            return self.segmenter.encode(batch.image, batch.grid)
        return self.stems.encode(self.segmenter, batch.image, batch.grid)

    @abstractmethod
    def predict_batch(self, batch: ImageBatch, generator: torch.Generator) -> BatchPrediction:
        """Predict a batch; `generator` is the only source of randomness."""

    @abstractmethod
    def label_maps(self, prediction: BatchPrediction, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Predicted and reference classes 0..K of each image, [images h w]."""

    @override
    def on_train_epoch_start(self) -> None:
        self.segmenter.decoder.begin_epoch(self.current_epoch)

    @override
    def on_train_batch_start(self, batch: ImageBatch, batch_idx: int) -> None:
        # dropout and stochastic depth draw from the global generator
        torch.manual_seed(self._step_seed(batch_idx) ^ 1)

    @override
    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor | None:
        generator = torch.Generator().manual_seed(self._step_seed(batch_idx))
        loss = self.total_loss(self.predict_batch(batch, generator))
        is_finite = bool(torch.isfinite(loss.detach()))
        if self.trainer.world_size > 1:  # all ranks skip together, or none
            is_finite = self.trainer.strategy.reduce_boolean_decision(is_finite, all=True)
        if not is_finite:
            self.guard.failed("the loss", self.global_step, batch.case_id)
            self._is_skipped = True
            # distributed training expects a backward pass on every rank
            return None if self.trainer.world_size == 1 else self._no_loss()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        gradients = [
            p.grad for p in trainable_parameters(self.segmenter).values() if p.grad is not None
        ]
        if self._is_skipped or not gradients:
            self._is_skipped = False
            optimizer.zero_grad(set_to_none=True)
            return
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm) and self.trainer.precision != "16-mixed":  # its scaler skips
            self.guard.failed("the gradient", self.global_step, ())
            optimizer.zero_grad(set_to_none=True)
            return
        self.guard.passed()
        self.log("train/gradient_norm", norm)
        self.log("train/skipped_steps", float(self.guard.total))

    @override
    def on_validation_epoch_start(self) -> None:
        self.tally = CaseTally(len(self.labels))

    @override
    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        prediction = self.predict_batch(batch, self.validation_generator(batch_idx))
        loss = self.total_loss(prediction)
        found, truth = self.label_maps(prediction, batch)
        self.tally.add(found, truth, batch.case_id, batch.slice_index.tolist())
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)

    @override
    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            everywhere: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everywhere, self.tally.counts)
            self.tally.merge(everywhere)
        dice = self.tally.dice()
        self.log("val/dice", sum(dice) / len(dice), prog_bar=True, sync_dist=True)
        for value, one in zip(sorted(self.labels), dice, strict=True):
            self.log(f"val/dice_{self.labels[value]}", one, sync_dist=True)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.plan.build(self.segmenter)
        scheduler = LambdaLR(optimizer, lambda step: self.plan.factor(self._progress(step)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.segmenter.trainable_state()
        checkpoint["segkit"] = {
            "format": 1,
            "backbone": self._backbone(),
            "guard": self.guard.state_dict(),
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        facts = checkpoint.get("segkit", {})
        if facts.get("format") != 1:
            raise CheckpointError(
                f"checkpoint has format {facts.get('format')!r}, this version reads 1",
                fix="resume with the version of segkit that wrote it",
            )
        if facts["backbone"] != self._backbone():
            raise CheckpointError(
                f"checkpoint stands on backbone {facts['backbone']}, "
                f"this run on {self._backbone()}",
                fix="use the same backbone and weights, or start a new run",
                code="other_backbone",
            )
        self.segmenter.load_trainable_state(checkpoint["state_dict"])
        self.guard.load_state_dict(facts["guard"])
        checkpoint["state_dict"] = {}

    def validation_generator(self, batch_idx: int) -> torch.Generator:
        """The same random numbers for a validation batch in every epoch."""
        key = np.random.SeedSequence([self.seed, _VALIDATION, batch_idx]).generate_state(1)[0]
        return torch.Generator().manual_seed(int(key))

    def total_loss(self, prediction: BatchPrediction) -> Tensor:
        """Average over rounds; of several alternatives for an object the best one counts.

        Without any object the loss is 0 and so is every gradient, as other processes may have some.
        """
        if not prediction.rounds:
            return self._no_loss()
        losses = [self._refined_loss(one, prediction.target) for one in prediction.rounds]
        return torch.stack(losses).mean()

    def _refined_loss(self, one: MaskPrediction, target: Tensor) -> Tensor:
        """Move from coarse to refined logits over the first epochs (I-MedSAM, section 3.3)."""
        loss = self._round_loss(one, target)
        share = min((self.current_epoch + 1) / _REFINED_FROM_EPOCH, 1.0)
        if one.coarse is None or share == 1:
            return loss
        coarse = self._round_loss(MaskPrediction(one.coarse, one.iou), target)
        return (1 - share) * coarse + share * loss

    def _no_loss(self) -> Tensor:
        parameters = trainable_parameters(self.segmenter).values()
        return torch.stack([0.0 * parameter.sum() for parameter in parameters]).sum()

    def _round_loss(self, one: MaskPrediction, target: Tensor) -> Tensor:
        # losses are computed in float32 whatever the precision of the model
        logits = upsample(one.logits.float(), target.shape[2 - one.logits.ndim :])
        if target.ndim == logits.ndim and target.shape[1] == 1:
            loss = self.loss(_best_alternative(logits, target), target)
            target = target.expand_as(logits)
        else:
            loss = self.loss(logits, target)
        if self.iou_weight:
            loss = loss + self.iou_weight * iou_head_loss(one.iou.float(), logits, target)
        return loss

    def _step_seed(self, batch_idx: int) -> int:
        position = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        return int(np.random.SeedSequence(position).generate_state(1)[0])

    def _progress(self, step: int) -> float:
        if self.plan.follow == "steps":
            return step / max(1, self.trainer.estimated_stepping_batches)
        callbacks = getattr(self.trainer, "callbacks", ())
        timer = next(each for each in callbacks if isinstance(each, Timer))
        elapsed, left = timer.time_elapsed(), timer.time_remaining()
        return elapsed / max(1e-9, elapsed + (left or 0.0))

    def _backbone(self) -> dict[str, str]:
        recipe = self.segmenter.recipe
        if recipe is None:
            return {"name": self.segmenter.spec.name, "sha256": ""}
        return {"name": recipe.backbone.name, "sha256": recipe.backbone.sha256}


def _best_alternative(logits: Maps, target: Maps) -> Maps:
    """Of each object the mask that overlaps most, so that alternatives may specialise."""
    if logits.shape[1] == 1:
        return logits
    found, truth = logits.detach() > 0, target > 0
    overlap, union = (found & truth).sum((2, 3)), (found | truth).sum((2, 3))
    index = (overlap / union.clamp(min=1)).argmax(dim=1)
    return logits[torch.arange(len(logits), device=logits.device), index][:, None]
