"""Train a promptable model with a simulated user who clicks, draws boxes and corrects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from typing_extensions import override

from segkit.data.batches import ImageBatch
from segkit.data.zoom import Zoom
from segkit.lightning.base import BatchPrediction, Loss, SegmentationModule
from segkit.lightning.close_ups import BOXED, CLICKED, close_ups
from segkit.lightning.finite import FiniteGuard
from segkit.lightning.optimizer import OptimizerPlan
from segkit.models.segmenter import Segmenter, upsample
from segkit.prompts import simulate
from segkit.typing import Features, MaskPrediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """What the simulated user does.

    Each batch starts with boxes with probability `box_share`, otherwise with one click per object,
    which asks for alternatives. `rounds` counts the start; each later round adds a click in the
    largest error and, with `mask_feedback`, the logits so far. `jitter` is the standard deviation
    of the sides of a box as a share of its extent; models trained with 0.1, as SAM was, distrust
    exact boxes (see docs/guide/train.md). Up to `max_objects` per image are trained at
    once: classes, or with `instances` the instance ids a data set yields. `scattered` (inside,
    anywhere) replaces the start by so many random clicks, as 3DSAM-adapter trains.

    With `zoom` objects are seen through windows, each encoded by itself: always in validation and
    where a box starts, in training with probability `zoom_share` where a click does, since that is
    answered on the whole image first. How large the object is in its window says nothing then.
    """

    box_share: float = 0.5
    rounds: int = 3
    max_objects: int = 4
    jitter: float = 0.02
    mask_feedback: bool = True
    instances: bool = False
    scattered: Sequence[int] | None = None
    zoom: Zoom | None = None
    zoom_share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("box_share", "zoom_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("rounds", "max_objects"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.scattered is not None and (len(self.scattered) != 2 or min(self.scattered) < 0):
            raise ValueError(f"scattered must be (inside, anywhere) >= 0, got {self.scattered}")
        if self.jitter < 0:
            raise ValueError(f"jitter must be >= 0, got {self.jitter}")


class InteractiveModule(SegmentationModule):
    """Several objects per image, prompted and corrected over several rounds.

    The image is encoded once per step; every round decodes all objects in one batch. Images
    without an object contribute nothing.
    """

    reads_stems = True

    def __init__(
        self,
        segmenter: Segmenter,
        loss: Loss,
        *,
        optimizer: OptimizerPlan | None = None,
        labels: Mapping[int, str] | None = None,
        iou_weight: float = 1.0,
        guard: FiniteGuard | None = None,
        seed: int = 0,
        interaction: Interaction | None = None,
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
        if segmenter.is_automatic:
            raise ValueError("InteractiveModule needs a promptable model; build it without classes")
        self.interaction = interaction or Interaction()

    @override
    def predict_batch(self, batch: ImageBatch, generator: Generator) -> BatchPrediction:
        classes = None if self.interaction.instances else list(self.labels)
        objects = simulate.sample_objects(
            batch.mask, classes, self.interaction.max_objects, generator
        )
        values = objects.values.clamp(max=1) if self.interaction.instances else objects.values
        index, close = objects.image_index, None
        rounds: tuple[MaskPrediction, ...] = ()
        if len(objects.masks):
            boxed = bool(torch.rand((), generator=generator) < self.interaction.box_share)
            if (zoom := self._zoom(boxed, generator)) is None:
                features = self.encode(batch)
            else:
                widths = None if not self.training else BOXED if boxed else CLICKED
                close = close_ups(batch.image, objects, zoom, generator, widths)
                objects, features = close.objects, self.segmenter.encode(close.image)
            rounds = self._converse(features, objects, boxed, generator)
        return BatchPrediction(rounds, objects.masks[:, None].float(), index, values, close)

    @override
    def label_maps(self, prediction: BatchPrediction, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        found, truth = torch.zeros_like(batch.mask), torch.zeros_like(batch.mask)
        index, classes = prediction.image_index, prediction.classes
        if not prediction.rounds or index is None or classes is None:
            return found, truth
        best = prediction.rounds[-1].best().logits.float()
        if prediction.close_ups is None:
            logits, masks = upsample(best, batch.mask.shape[1:])[:, 0], prediction.target[:, 0] > 0
        else:
            logits, masks = prediction.close_ups.paste(best), prediction.close_ups.masks
        surest = torch.zeros_like(batch.mask, dtype=logits.dtype)
        for row, (image, value) in enumerate(zip(index.tolist(), classes.tolist(), strict=True)):
            is_surest = logits[row] > surest[image]
            found[image][is_surest] = value
            surest[image] = torch.maximum(surest[image], logits[row])
            truth[image][masks[row]] = value
        return found, truth

    def _zoom(self, boxed: bool, generator: Generator) -> Zoom | None:
        """Whether objects are seen closely in this batch, and how."""
        plan = self.interaction
        if plan.zoom is None or boxed or not self.training:
            return plan.zoom
        is_close = bool(torch.rand((), generator=generator) < plan.zoom_share)
        return plan.zoom if is_close else None

    def _converse(
        self, features: Features, objects: simulate.Objects, boxed: bool, generator: Generator
    ) -> tuple[MaskPrediction, ...]:
        """Prompt, look at the largest error, correct; return the prediction of every round."""
        plan = self.interaction
        if plan.scattered is not None:
            inside, anywhere = plan.scattered
            prompts = simulate.scattered_clicks(
                objects.masks, generator, inside=inside, anywhere=anywhere
            )
            prompts = replace(prompts, image_index=objects.image_index)
        else:
            prompts = simulate.first_prompts(
                objects.masks,
                generator,
                box_share=float(boxed),
                jitter=plan.jitter,
                image_index=objects.image_index,
            )
        rounds: list[MaskPrediction] = []
        for index in range(plan.rounds):
            is_ambiguous = index == 0 and prompts.labels.shape[1] == 1
            rounds.append(self.segmenter.decode(features, prompts, multimask=is_ambiguous))
            if index + 1 < plan.rounds:
                best = rounds[-1].best().logits.detach()
                found = upsample(best.float(), objects.masks.shape[1:])[:, 0] > 0
                click = simulate.next_click(found, objects.masks, generator)
                prompts = simulate.extend(prompts, click, best if plan.mask_feedback else None)
        return tuple(rounds)
