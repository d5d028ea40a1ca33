"""Learn from corrected segmentations: decoder and prompts anew, on embeddings that are kept.

The frozen encoder runs once per slice; every step after that costs a decoder. What is learned is a
new version; the model it came from is untouched.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from segkit.models.segmenter import Segmenter, upsample
from segkit.prompts import simulate
from segkit.serve.annotation import Encoded
from segkit.serve.faults import bad
from segkit.serve.worker import Task
from segkit.typing import Features, Grid, MaskPrediction, Prompts

if TYPE_CHECKING:
    from segkit.losses import DiceBCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to learn: at most `seconds` of steps, from at most `slices` slices.

    `rounds` is how often the simulated user marks each object, `held_out` which share of the
    slices measures whether it helped. The new weights lie at `share` of the way from the old ones
    to those that were learned, so that a few slices do not make the model forget the rest (source:
    "Robust fine-tuning of zero-shot models", Wortsman et al., CVPR 2022).
    """

    seconds: float = 25.0
    steps: int = 300
    slices: int = 48
    batch: int = 4
    rounds: int = 2
    rate: float = 1e-4
    share: float = 0.5
    held_out: float = 0.25
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What learning did: mean Dice of a box prompt on slices that were not learned from.

    With fewer than four corrected slices none can be held out, and `is_held_out` is false: the
    Dice is then that of the slices learned from.
    """

    before: float
    after: float
    is_held_out: bool
    slices: int
    steps: int
    seconds: float

    @property
    def has_helped(self) -> bool:
        """Whether the new version should take over."""
        return self.after >= self.before

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "has_helped": self.has_helped}


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One corrected slice: its embedding, and the object at the size of the model's input."""

    levels: tuple[Tensor, ...]
    mask: Bool[Tensor, "h w"]


def learn(
    segmenter: Segmenter,
    corrected: Sequence[tuple[Encoded, Bool[np.ndarray, "..."]]],
    task: Task[Any],
    plan: Plan,
) -> tuple[Segmenter, Outcome]:
    """Copy of a model with a decoder that has seen the corrections, and whether that helped.

    Raises:
        Refusal: 400; nothing was corrected, or the model sees volumes as a whole.
        Cancelled: The task was called off.
    """
    if segmenter.spec.dimensions != 2:
        raise bad("learning from corrections needs a model that sees slices", "not_supported")
    start = time.perf_counter()
    task.step(0, plan.steps)
    examples = collect(corrected, plan.slices, task)
    if not examples:
        raise bad("no segmentation was accepted yet; accept one first", "nothing_to_learn")
    train, test = _split(examples, plan.held_out)
    # the frozen half is shared with the model it comes from
    new = copy.deepcopy(segmenter, {id(segmenter.backbone): segmenter.backbone})
    before = box_dice(segmenter, test)
    steps = _train(new, train, task, plan)
    _blend(new, segmenter, plan.share)
    outcome = Outcome(
        round(before, 4),
        round(box_dice(new, test), 4),
        test is not train,
        len(train),
        steps,
        round(time.perf_counter() - start, 2),
    )
    return new, outcome


def collect(
    corrected: Sequence[tuple[Encoded, Bool[np.ndarray, "..."]]], most: int, task: Task[Any]
) -> list[Example]:
    """Embeddings and masks of corrected slices, evenly over every volume."""
    found = []
    each = max(1, most // max(1, len(corrected)))
    for encoded, mask in corrected:
        marked = np.flatnonzero(encoded.view.stack(mask).any(axis=(1, 2)))
        chosen = marked[np.unique(np.linspace(0, len(marked) - 1, min(each, len(marked))).round())
                        .astype(int)] if len(marked) else marked  # fmt: skip
        for index in map(int, chosen):
            task.step()
            target = torch.from_numpy(encoded.view.label(mask, index))
            if target.any():
                # inference tensors cannot take part in a backward pass; copies can
                levels = encoded.slices.features(index).levels
                found.append(Example(tuple(level.clone() for level in levels), target))
    return found


@torch.no_grad()
def box_dice(segmenter: Segmenter, examples: Sequence[Example]) -> float:
    """Mean Dice of the tightest box around each object."""
    scores = []
    for example in examples:
        features, masks = _batch([example], segmenter)
        found = _decode(segmenter, features, simulate.box_from_mask(masks), masks)
        overlap = (found & masks).sum().item()
        scores.append(2 * overlap / max(1, int(found.sum().item() + masks.sum().item())))
    return float(np.mean(scores))


def _train(segmenter: Segmenter, examples: Sequence[Example], task: Task[Any], plan: Plan) -> int:
    generator = Generator().manual_seed(plan.seed)
    parameters = [
        parameter
        for part in (segmenter.decoder, segmenter.prompt_encoder)
        for parameter in part.parameters()
        if parameter.requires_grad
    ]
    from segkit.losses import DiceBCE  # brings MONAI, which a server that starts need not wait for

    optimizer = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=0.01)
    loss_of, end, done = DiceBCE(max_positive_weight=1.0), time.perf_counter() + plan.seconds, 0
    with torch.enable_grad():
        while done < plan.steps and time.perf_counter() < end:
            order = torch.randperm(len(examples), generator=generator)[: plan.batch]
            features, masks = _batch([examples[n] for n in order.tolist()], segmenter)
            loss = _converse(segmenter, features, masks, loss_of, plan.rounds, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            done += 1
            task.step(done, plan.steps)
    return done


@torch.no_grad()
def _blend(new: Segmenter, old: Segmenter, share: float) -> None:
    for part, before in ((new.decoder, old.decoder), (new.prompt_encoder, old.prompt_encoder)):
        for mine, theirs in zip(part.parameters(), before.parameters(), strict=True):
            mine.lerp_(theirs, 1 - share)


def _converse(
    segmenter: Segmenter,
    features: Features,
    masks: Bool[Tensor, "n h w"],
    loss_of: "DiceBCE",
    rounds: int,
    generator: Generator,
) -> Float[Tensor, ""]:
    """Prompt, look at the largest error, correct; the loss of all rounds."""
    starts_with_box = bool(torch.rand((), generator=generator) < 0.5)
    prompts = simulate.first_prompts(
        masks, generator, box_share=float(starts_with_box), jitter=0.02
    )
    total = masks.new_zeros((), dtype=torch.float32)
    for number in range(rounds):
        prediction = segmenter.decode(features, prompts)
        logits = upsample(prediction.logits.float(), features.grid.size)
        target = masks[:, None].float()
        total = total + loss_of(logits, target) + _iou_loss(prediction, logits, target)
        if number + 1 < rounds:
            best = prediction.logits.detach()
            click = simulate.next_click(logits[:, 0].detach() > 0, masks, generator)
            prompts = simulate.extend(prompts, click, best)
    return total / rounds


def _iou_loss(prediction: MaskPrediction, logits: Tensor, target: Tensor) -> Float[Tensor, ""]:
    found = (logits.detach() > 0).float()
    both = (found * target).sum(dim=(-2, -1))
    either = ((found + target) > 0).float().sum(dim=(-2, -1)).clamp(min=1)
    return torch.nn.functional.mse_loss(prediction.iou.float(), both / either)


def _batch(
    examples: Sequence[Example], segmenter: Segmenter
) -> tuple[Features, Bool[Tensor, "n h w"]]:
    masks = torch.stack([example.mask for example in examples]).to(segmenter.device)
    levels = tuple(torch.cat(level) for level in zip(*(e.levels for e in examples), strict=True))
    return Features(levels, Grid((1, int(masks.shape[1]), int(masks.shape[2])))), masks


def _decode(
    segmenter: Segmenter, features: Features, prompts: Prompts, masks: Tensor
) -> Bool[Tensor, "n h w"]:
    logits = segmenter.decode(features, prompts).best().logits
    return upsample(logits.float(), (int(masks.shape[1]), int(masks.shape[2])))[:, 0] > 0


def _split(examples: list[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Every n-th slice measures; with fewer than four all do both."""
    if len(examples) < 4:
        return examples, examples
    every = max(2, round(1 / share))
    test = examples[every // 2 :: every]
    train = [one for n, one in enumerate(examples) if n % every != every // 2]
    return train, test
