"""Loss of one batch over several rounds of prompting, and the score of a model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from segkit.backbones.sam_modules import SamModules
from tools.nano.network import decode, encode
from tools.nano.objects import Batch, box_of, draw_batch, first_click, next_click

CHOICE = 0.05
"""Difference in predicted IoU that makes a mask e times as likely to be chosen."""


@dataclass(slots=True)
class Marks:
    """Prompts of all objects so far: XY points, labels and the previous mask."""

    points: Float[Tensor, "objects points 2"]
    labels: Tensor
    size: int  # of the image, in pixels
    previous: Float[Tensor, "objects 1 h w"] | None = None

    def add(self, points: np.ndarray, labels: np.ndarray) -> None:
        """Append points to each object."""
        self.points = torch.cat([self.points, torch.from_numpy(points)], 1)
        self.labels = torch.cat([self.labels, torch.from_numpy(labels)], 1)


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much rarer classes count (1: both classes the same) and what the ranking weighs."""

    balance: float
    rank: float


def tensors(batch: Batch, modules: SamModules) -> tuple[Tensor, Tensor]:
    """Pixels [n 3 h w] and the covered share of each mask pixel [objects h w]."""
    pixels = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float()
    cell = modules.sizes.patch_size // 4  # input pixels per mask pixel
    return pixels, F.avg_pool2d(torch.from_numpy(batch.masks).float()[:, None], cell)[:, 0]


def solid(target: Float[Tensor, "objects h w"]) -> Tensor:
    """Mask pixels that belong to the object; thin ones never fill half a pixel."""
    return target > (0.5 * target.amax((1, 2), keepdim=True)).clamp(max=0.5)


def first_marks(rng: np.random.Generator, batch: Batch, boxes: np.ndarray, exact: bool) -> Marks:
    """One click and a padding point, or a box, for each object."""
    points = np.zeros((len(boxes), 2, 2), np.float32)
    labels = np.tile(np.array([1, -1]), (len(boxes), 1))
    for index, (mask, box) in enumerate(zip(batch.masks, boxes, strict=True)):
        if box:
            jitter = 0.0 if exact or rng.random() < 0.5 else 0.06
            points[index], labels[index] = box_of(rng, mask, jitter), (2, 3)
        else:
            points[index, 0] = first_click(rng, mask, exact or rng.random() < 0.6)
    return Marks(torch.from_numpy(points), torch.from_numpy(labels), batch.masks.shape[-1])


def correct(
    rng: np.random.Generator, marks: Marks, logits: Tensor, truth: Tensor, clicks: int, exact: bool
) -> None:
    """Append `clicks` corrections of the mask `logits` to each object, and the mask itself."""
    cell = marks.size / logits.shape[-1]
    guess, wanted = (logits > 0).numpy(), truth.numpy()
    points = np.zeros((len(guess), clicks, 2), np.float32)
    labels = np.zeros((len(guess), clicks), np.int64)
    for index in range(len(guess)):
        for click in range(clicks):
            central = exact or (click == 0 and rng.random() < 0.6)
            col, row, label = next_click(rng, guess[index], wanted[index], central)
            inside = (cell - 1) / 2 if exact else rng.uniform(0, cell - 1, 2)
            points[index, click] = cell * np.array([col, row]) + inside
            labels[index, click] = label
    marks.add(points, labels)
    marks.previous = logits[:, None].detach()


def mask_loss(
    logits: Float[Tensor, "objects masks h w"], target: Float[Tensor, "objects h w"], balance: float
) -> Float[Tensor, "objects masks"]:
    """Binary cross-entropy, weighted towards the rarer class, plus linear Dice.

    `balance` 1 gives both classes the same weight however small the object, 0 none.
    """
    wanted = target[:, None].expand_as(logits)
    share = target.mean((1, 2)).clamp(1e-4, 1 - 1e-4).view(-1, 1, 1, 1)
    weight = wanted * share**-balance + (1 - wanted) * (1 - share) ** -balance
    weight = weight / weight.mean((2, 3), keepdim=True)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    chance = logits.sigmoid()
    both = chance.sum((2, 3)) + wanted.sum((2, 3))
    dice = 1 - (2 * (chance * wanted).sum((2, 3)) + 1) / (both + 1)
    return (weight * entropy).mean((2, 3)) + dice


def overlap(logits: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of each mask [objects masks] with its object."""
    guess, wanted = logits > 0, truth[:, None]
    union = (guess | wanted).sum((2, 3)).clamp(min=1)
    return (guess & wanted).sum((2, 3)) / union


def wrong_choice(
    rank: Float[Tensor, "objects masks"], quality: Float[Tensor, "objects masks"]
) -> Float[Tensor, ""]:
    """IoU lost by choosing masks by their predicted IoU instead of by the true one."""
    chosen = (rank / CHOICE).softmax(1)
    return (quality.amax(1) - (chosen * quality).sum(1)).mean()


def place(
    rng: np.random.Generator, modules: SamModules, pixels: Tensor
) -> Int[Tensor, "n 2"] | None:
    """Draw where in the frame each smaller image lies, in cells; None for images that fill it."""
    spare = (modules.sizes.image_size - pixels.shape[-1]) // modules.sizes.patch_size
    if not spare:
        return None
    return torch.from_numpy(rng.integers(0, spare + 1, (len(pixels), 2)))


def batch_loss(
    modules: SamModules,
    batch: Batch,
    rng: np.random.Generator,
    weights: LossWeights,
    *,
    blind: bool = False,
) -> tuple[Tensor, dict[str, float]]:
    """Loss over two or three rounds: a click or a box, then corrections of the mask so far.

    A `blind` step skips the encoder: the decoder learns what a prompt alone says about a mask.
    Images smaller than the frame of the model are placed in it at random.
    """
    pixels, target = tensors(batch, modules)
    truth, owner = solid(target), torch.from_numpy(batch.owner)
    corner = place(rng, modules, pixels)
    if blind:
        cells = pixels.shape[-1] // modules.sizes.patch_size
        features = pixels.new_zeros(len(target), modules.sizes.out_dim, cells, cells)
    else:
        features = encode(modules, pixels, corner)[owner]
    corner = None if corner is None else corner[owner]
    boxes = rng.random(len(target)) < 0.4
    marks = first_marks(rng, batch, boxes, exact=False)
    total, facts = pixels.new_zeros(()), {}
    turns = 2 if rng.random() < 0.6 else 3
    for turn in range(turns):
        has_mask = torch.from_numpy(rng.random(len(target)) < 0.8).float()
        given = None if marks.previous is None else marks.previous
        logits, rank = decode(
            modules, features, marks.points, marks.labels, given, has_mask, corner
        )
        losses = mask_loss(logits, target, weights.balance)
        quality = overlap(logits.detach(), truth)
        alone, several = losses[:, 0].mean(), losses[:, 1:].min(1).values.mean()
        # the alternatives that are not the best are drawn along, so that a wrong choice costs less
        several = several + 0.15 * losses[:, 1:].mean()
        ranking = F.mse_loss(rank, quality) + 0.5 * wrong_choice(rank, quality)
        total = total + alone + (0.7 if turn == 0 else 0.2) * several + weights.rank * ranking
        facts |= {f"loss{turn}": float(alone.detach()), f"iou{turn}": float(quality[:, 0].mean())}
        facts[f"rank{turn}"] = float(ranking.detach())
        if turn < turns - 1:
            pick = rank.argmax(1) * torch.from_numpy((rng.random(len(rank)) < 0.5) & ~boxes)
            fed = logits.detach()[torch.arange(len(pick)), pick]
            many = turn == 1 or (turns == 2 and rng.random() < 0.5)
            correct(rng, marks, fed, truth, 1 + many * int(rng.integers(0, 4)), exact=False)
    return total, facts


def validation_batches(modules: SamModules, images: int) -> Iterator[Batch]:
    """Fixed generated pictures that no training draws, eight at a time, two objects each."""
    for start in range(0, images, 8):
        yield draw_batch((999_983, start), 8, 2, 0.002, modules.sizes.image_size)


@torch.no_grad()
def validate(modules: SamModules, images: int = 32) -> dict[str, float]:
    """Mean Dice on fixed generated pictures: 1, 3 and 5 central clicks, and an exact box."""
    scores: dict[str, list[Tensor]] = {}
    rng = np.random.default_rng(0)
    for batch in validation_batches(modules, images):
        pixels, target = tensors(batch, modules)
        truth = solid(target)
        features = encode(modules, pixels)[torch.from_numpy(batch.owner)]

        def note(name: str, logits: Tensor, truth: Tensor = truth) -> None:
            iou = overlap(logits, truth)
            scores.setdefault(name, []).append((2 * iou / (1 + iou)).max(1).values)

        marks = first_marks(rng, batch, np.ones(len(target), bool), exact=True)
        logits, _ = decode(modules, features, marks.points, marks.labels)
        note("box", logits[:, :1])
        marks = first_marks(rng, batch, np.zeros(len(target), bool), exact=True)
        logits, rank = decode(modules, features, marks.points, marks.labels)
        fed = logits[torch.arange(len(rank)), rank.argmax(1)]
        note("click1", fed[:, None])
        note("click1_single", logits[:, :1])
        note("click1_oracle", logits)
        for click in range(2, 6):
            correct(rng, marks, fed, truth, 1, exact=True)
            every = torch.ones(len(target))
            logits, _ = decode(modules, features, marks.points, marks.labels, marks.previous, every)
            fed = logits[:, 0]
            if click in (3, 5):
                note(f"click{click}", logits[:, :1])
    return {name: float(torch.cat(values).mean()) for name, values in scores.items()}
