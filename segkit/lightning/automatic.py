"""Train a model that segments its classes without prompts."""

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from segkit.data.batches import ImageBatch
from segkit.lightning.base import BatchPrediction, Loss, SegmentationModule
from segkit.lightning.finite import FiniteGuard
from segkit.lightning.optimizer import OptimizerPlan
from segkit.losses import class_masks
from segkit.models.segmenter import Segmenter, upsample


class AutomaticModule(SegmentationModule):
    """All classes of an image in one pass.

    With `as_masks` each class is a mask of its own for the loss (SAM-Adapter's losses), otherwise
    the classes exclude each other (`DiceCE`).
    """

    reads_stems = True

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
        as_masks: bool = False,
    ) -> None:
        super().__init__(
            segmenter,
            loss,
            optimizer=optimizer,
            labels=labels,
            iou_weight=iou_weight,
            guard=guard,
            seed=seed,
        )
        if not segmenter.is_automatic:
            raise ValueError("AutomaticModule needs an automatic model; build it with classes=K")
        self.as_masks = as_masks

    @override
    def predict_batch(self, batch: ImageBatch, generator: torch.Generator) -> BatchPrediction:
        prediction = self.segmenter.decode(self.encode(batch))
        target = batch.mask
        if self.as_masks:
            values = torch.arange(1, len(self.labels) + 1, device=target.device)
            target = (target[:, None] == values.view(1, -1, *(1,) * (target.ndim - 1))).float()
        return BatchPrediction((prediction,), target)

    @override
    def label_maps(self, prediction: BatchPrediction, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        logits = upsample(prediction.rounds[-1].logits.float(), batch.mask.shape[1:])
        values = torch.arange(1, logits.shape[1] + 1, device=logits.device)
        classes = class_masks(logits).movedim(1, -1) * values
        return classes.sum(dim=-1), batch.mask
