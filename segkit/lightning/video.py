"""Train a promptable model on clips, with memory: prompt on the first frame, then follow."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Generator, Tensor
from typing_extensions import override

from segkit.data.clips import ClipBatch
from segkit.lightning.base import Loss, SegmentationModule
from segkit.lightning.finite import FiniteGuard
from segkit.lightning.optimizer import OptimizerPlan
from segkit.losses import Compat, iou_head_loss
from segkit.memory import MemoryBank, Sam2Memory
from segkit.models.build import BUILDERS
from segkit.models.build_sam2 import Sam2Builder
from segkit.models.dd_sam2_tracker import DDSam2Tracker
from segkit.models.segmenter import Segmenter, upsample
from segkit.models.tracker import ObjectPrompt, Tracker, TrackPrediction
from segkit.prompts import simulate
from segkit.typing import PADDING, Features, Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What the simulated user does with a clip.

    The first frame is marked with a box with probability `box_share`, with the object's mask with
    probability `mask_share`, else with a click. Boxes have `jitter` (standard deviation of a side
    as a share of its extent). With probability `corrections` one later frame is corrected by a
    click into the largest error of each object. Up to `max_objects` per clip are followed at once.
    The error of the predicted IoU weighs `iou_weight`, that of visibility `visibility_weight`.
    With `compat="authors"` neither counts, an object that a frame does not show is wanted as an
    empty mask, and training windows are followed by `segkit.models.dd_sam2_tracker.DDSam2Tracker`.
    """

    box_share: float = 1.0
    mask_share: float = 0.0
    jitter: float = 0.0
    corrections: float = 0.0
    max_objects: int = 3
    iou_weight: float = 1.0
    visibility_weight: float = 0.5
    compat: Compat = None

    def __post_init__(self) -> None:
        shares = (self.box_share, self.mask_share, self.corrections)
        if any(not 0 <= share <= 1 for share in shares) or self.box_share + self.mask_share > 1:
            raise ValueError(
                "box_share, mask_share and corrections must lie in [0, 1], the first two together "
                f"too, got {shares}"
            )
        if self.max_objects < 1 or self.jitter < 0:
            raise ValueError(
                f"max_objects must be >= 1 and jitter >= 0, got {self.max_objects}, {self.jitter}"
            )
        if self.compat not in (None, "authors"):
            raise ValueError(f"compat must be None or 'authors', got {self.compat!r}")


@dataclass(frozen=True, slots=True, eq=False)
class FollowedFrame:
    """Objects on one frame: what was found, and what there is.

    `is_known` tells which objects lie on a labelled frame; only they are compared.
    """

    index: int
    found: TrackPrediction
    target: Bool[Tensor, "objects height width"]
    is_known: Bool[Tensor, " objects"]


@dataclass(frozen=True, slots=True, eq=False)
class ClipPrediction:
    """Frames in the order in which they were seen; a corrected frame occurs twice."""

    frames: tuple[FollowedFrame, ...]
    objects: simulate.Objects | None = None


class VideoModule(SegmentationModule):
    """Adapter and decoder of a SAM 2 learn on clips; encoder and memory stay frozen.

    Source: "DD-SAM2" (2025): a box on the first frame, memory written from predicted masks, a loss
    on every frame. Differences from the released code: memory and tracking are those of inference,
    where it feeds raw probabilities, lets time codes add up, keeps one pointer and takes the single
    mask; the memory does not drop out anything; a frame that does not show an object teaches
    visibility, not an empty mask. `Following.compat` and the `compat` of `segkit.losses.DDSam2Loss`
    bring all of that back, in training; validation follows as inference does, as it does there.

    `checkpoint` is the file the backbone was loaded from, for its memory half; None means what it
    means to the builder of the backbone.

    Raises:
        ValueError: The model is automatic, or has no memory.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        loss: Loss,
        *,
        optimizer: OptimizerPlan | None = None,
        labels: Mapping[int, str] | None = None,
        guard: FiniteGuard | None = None,
        seed: int = 0,
        following: Following | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__(
            segmenter, loss, optimizer=optimizer, labels=labels, guard=guard, seed=seed
        )
        self.following = following or Following()
        self.tracker = Tracker(segmenter, memory_of(segmenter, checkpoint))

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # frozen: its dropout would only add noise
        self.tracker.memory.train(mode and self.following.compat == "authors")
        return self

    @override
    def predict_batch(  # type: ignore[override]
        self, batch: ClipBatch, generator: Generator
    ) -> ClipPrediction:
        return self.follow(batch, generator, self.following)

    def follow(self, batch: ClipBatch, generator: Generator, plan: Following) -> ClipPrediction:
        """Mark objects on the first frames of clips and follow them to the end."""
        objects = simulate.sample_objects(
            batch.masks[:, 0], list(self.labels), plan.max_objects, generator
        )
        if not len(objects.masks):
            return ClipPrediction(())
        clips, length = batch.masks.shape[:2]
        features = self.segmenter.encode(batch.frames.flatten(0, 1))
        tracker, bank = self._begin(length)
        bank = bank.add(range(len(objects.masks)), objects.image_index.tolist())
        prompts, gives_mask = _first_prompts(objects.masks, plan, generator)
        corrected = _corrected_frame(length, plan, generator)
        seen: list[FollowedFrame] = []
        for index in range(length):
            frame, before = _frame(features, index, clips), bank
            found, bank = tracker.step(frame, None if index else prompts, bank)
            target = _at(batch.masks, objects, index)
            is_known = batch.is_labelled[objects.image_index, index]
            if index or not gives_mask:
                seen.append(FollowedFrame(index, found, target, is_known))
            if index == corrected and is_known.all():
                clicks = _corrections(found, target, generator)
                found, bank = tracker.step(frame, clicks, before)
                seen.append(FollowedFrame(index, found, target, is_known))
        return ClipPrediction(tuple(seen), objects)

    def _begin(self, frames: int) -> tuple[Tracker, MemoryBank]:
        """Who follows a clip of so many frames, and the memory to start with."""
        if self.training and self.following.compat == "authors":
            memory = self.tracker.memory
            return DDSam2Tracker(self.segmenter, memory, frames=frames), MemoryBank(rounds=False)
        return self.tracker, MemoryBank()

    @override
    def total_loss(self, prediction: ClipPrediction) -> Tensor:  # type: ignore[override]
        losses = [self._frame_loss(one) for one in prediction.frames if one.is_known.any()]
        return torch.stack(losses).mean() if losses else self._no_loss()

    @override
    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:  # type: ignore[override]
        prediction = self.follow(
            batch, self.validation_generator(batch_idx), replace(self.following, corrections=0.0)
        )
        found, truth = self.label_maps(prediction, batch)
        clips, frames = _later(batch).nonzero(as_tuple=True)
        names = [batch.case_id[clip] for clip in clips.tolist()]
        self.tally.add(found, truth, names, frames.tolist())
        loss = self.total_loss(prediction)
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)

    @override
    def label_maps(  # type: ignore[override]
        self, prediction: ClipPrediction, batch: ClipBatch
    ) -> tuple[Tensor, Tensor]:
        """Classes of all labelled frames but the first, clip by clip."""
        found, truth = torch.zeros_like(batch.masks), torch.zeros_like(batch.masks)
        surest = torch.zeros(batch.masks.shape, device=batch.masks.device)
        size = (batch.masks.shape[-2], batch.masks.shape[-1])
        rows: list[tuple[int, int]] = []
        if (objects := prediction.objects) is not None:
            rows = list(zip(objects.image_index.tolist(), objects.values.tolist(), strict=True))
        for one in prediction.frames:
            logits = upsample(one.found.logits.float(), size)[:, 0]
            for row, (clip, value) in enumerate(rows):
                place = (clip, one.index)
                is_surest = logits[row] > surest[place]
                found[place][is_surest] = value
                surest[place] = torch.maximum(surest[place], logits[row])
                truth[place][one.target[row]] = value
        later = _later(batch)
        return found[later], truth[later]

    def _frame_loss(self, one: FollowedFrame) -> Tensor:
        plan, size = self.following, one.target.shape[-2:]
        # losses are computed in float32 whatever the precision of the model
        logits = upsample(one.found.raw.float(), (size[0], size[1]))
        target = one.target[:, None].float()
        if plan.compat == "authors":
            return self.loss(logits[one.is_known], target[one.is_known])
        is_shown = one.target.flatten(1).any(1)
        score = one.found.score[one.is_known, 0].float()
        shown = is_shown[one.is_known].float()
        loss = plan.visibility_weight * F.binary_cross_entropy_with_logits(score, shown)
        if (rows := is_shown & one.is_known).any():
            loss = loss + self.loss(logits[rows], target[rows])
            rank = iou_head_loss(one.found.iou[rows].float(), logits[rows], target[rows])
            loss = loss + plan.iou_weight * rank
        return loss


def memory_of(segmenter: Segmenter, checkpoint: str | Path | None = None) -> Sam2Memory:
    """The memory half that belongs to the backbone of a segmenter.

    Raises:
        ValueError: Its backbone has none.
        CheckpointError: As the builder of the backbone.
    """
    name = segmenter.spec.name if segmenter.recipe is None else segmenter.recipe.backbone.name
    builder = BUILDERS.get(name)
    if segmenter.is_automatic or not isinstance(builder, Sam2Builder):
        raise ValueError(
            f"clips need a promptable SAM 2, got {name}{' with classes' * segmenter.is_automatic}; "
            "use backbone=nano2 or a sam2_* backbone, without classes"
        )
    return builder.load_memory(checkpoint).to(segmenter.device)


def _first_prompts(
    masks: Bool[Tensor, "objects height width"], plan: Following, generator: Generator
) -> tuple[dict[int, ObjectPrompt], bool]:
    """Prompts of all objects, of one kind; and whether they are the masks themselves."""
    kind = float(torch.rand((), generator=generator))
    if kind < plan.mask_share:
        return {row: ObjectPrompt(mask=mask) for row, mask in enumerate(masks)}, True
    box_share = float(kind < plan.mask_share + plan.box_share)
    marks = simulate.first_prompts(masks, generator, box_share=box_share, jitter=plan.jitter)
    return _by_object(marks), False


def _corrections(
    found: TrackPrediction, target: Bool[Tensor, "objects height width"], generator: Generator
) -> dict[int, ObjectPrompt] | None:
    """A click into the largest error of each object; what has none is tracked."""
    size = (target.shape[-2], target.shape[-1])
    guess = upsample(found.logits.detach().float(), size)[:, 0] > 0
    clicks = _by_object(simulate.next_click(guess, target, generator))
    return {
        row: replace(click, previous=found.raw[row].detach()) for row, click in clicks.items()
    } or None


def _by_object(marks: Prompts) -> dict[int, ObjectPrompt]:
    """One prompt per object that has a mark."""
    prompts: dict[int, ObjectPrompt] = {}
    for row, labels in enumerate(marks.labels):
        if (counts := labels != PADDING).any():
            prompts[row] = ObjectPrompt(marks.points[row][counts], labels[counts])
    return prompts


def _corrected_frame(length: int, plan: Following, generator: Generator) -> int:
    """Frame that is corrected, or -1."""
    if length < 2 or float(torch.rand((), generator=generator)) >= plan.corrections:
        return -1
    return int(torch.randint(1, length, (), generator=generator))


def _frame(features: Features, index: int, clips: int) -> Features:
    """Features of one frame of each clip."""
    levels = tuple(level.unflatten(0, (clips, -1))[:, index] for level in features.levels)
    return Features(levels, features.grid)


def _at(masks: Tensor, objects: simulate.Objects, index: int) -> Tensor:
    return masks[objects.image_index, index] == objects.values[:, None, None]


def _later(batch: ClipBatch) -> Bool[Tensor, "n t"]:
    """Labelled frames that were not prompted."""
    later = batch.is_labelled.clone()
    later[:, 0] = False
    return later
