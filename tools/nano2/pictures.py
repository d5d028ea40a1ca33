"""Stage 1: prompts, corrections and losses on single pictures."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.decoders.sam2_mask import without_memory
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Grid
from tools.nano.objects import Batch, draw_batch
from tools.nano.step import correct, first_marks, mask_loss, overlap, solid
from tools.nano2.prompting import decode

CELL = 4  # input pixels per mask pixel


def tensors(batch: Batch) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and the covered share of each mask pixel [objects h w]."""
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 255
    return images, F.avg_pool2d(torch.from_numpy(batch.masks).float()[:, None], CELL)[:, 0]


def encode(segmenter: Segmenter, images: Tensor, blind: bool = False) -> Features:
    """Features that have seen no memory; of a `blind` step zero, so that the prompt must do."""
    decoder: Any = segmenter.decoder
    if not blind:
        return without_memory(segmenter.encode(images), decoder.module.no_mem_embed)
    rows, dim = images.shape[-1] // CELL, segmenter.spec.out_dim
    levels = tuple(
        images.new_zeros(len(images), dim // part, rows // step, rows // step)
        for part, step in ((8, 1), (4, 2), (1, 4))
    )
    return Features(levels, Grid((1, *images.shape[-2:])))


def picture_loss(
    segmenter: Segmenter, batch: Batch, rng: np.random.Generator, progress: float, *, blind: bool
) -> tuple[Tensor, dict[str, float]]:
    """Loss over two or three rounds: a click or a box, then corrections of the mask so far."""
    images, target = tensors(batch)
    truth, owner = solid(target), torch.from_numpy(batch.owner)
    features = encode(segmenter, images, blind)
    boxes = rng.random(len(target)) < 0.5
    marks = first_marks(rng, batch, boxes, exact=False)
    balance = 1 - 0.5 * min(progress / 0.5, 1)
    rank_weight = 0.1 + 0.9 * min(progress / 0.3, 1)
    total, facts = images.new_zeros(()), {}
    turns = 2 if rng.random() < 0.6 else 3
    for turn in range(turns):
        has_mask = torch.from_numpy(rng.random(len(target)) < 0.8).float()
        found = decode(segmenter, features, marks, owner, has_mask)
        logits, rank = found.logits, found.iou
        losses = mask_loss(logits, target, balance)
        quality = overlap(logits.detach(), truth)
        alone, several = losses[:, 0].mean(), losses[:, 1:].min(1).values.mean()
        ranking = F.mse_loss(rank, quality)
        visible = F.softplus(-found.score).mean()  # every prompted object is there
        total = total + alone + (0.7 if turn == 0 else 0.3) * several + rank_weight * ranking
        total = total + 0.05 * visible
        facts |= {f"loss{turn}": float(alone.detach()), f"iou{turn}": float(quality[:, 0].mean())}
        facts[f"rank{turn}"] = float(ranking.detach())
        if turn < turns - 1:
            pick = rank[:, 1:].argmax(1) + 1
            pick = pick * torch.from_numpy((rng.random(len(pick)) < 0.5) & ~boxes)
            fed = logits.detach()[torch.arange(len(pick)), pick]
            many = turn == 1 or (turns == 2 and rng.random() < 0.5)
            correct(rng, marks, fed, truth, 1 + many * int(rng.integers(0, 4)), exact=False)
    return total, facts


@torch.no_grad()
def validate(segmenter: Segmenter, size: int, images: int = 48) -> dict[str, float]:
    """Mean Dice on fixed generated pictures: 1, 3 and 5 central clicks, and an exact box."""
    scores: dict[str, list[Tensor]] = {}
    rng = np.random.default_rng(0)
    for start in range(0, images, 8):
        batch = draw_batch((999_983, start), 8, 2, 0.004, size)
        pixels, target = tensors(batch)
        truth, owner = solid(target), torch.from_numpy(batch.owner)
        features = encode(segmenter, pixels)

        def note(name: str, logits: Tensor, truth: Tensor = truth) -> None:
            iou = overlap(logits, truth)
            scores.setdefault(name, []).append((2 * iou / (1 + iou)).max(1).values)

        marks = first_marks(rng, batch, np.ones(len(target), bool), exact=True)
        note("box", decode(segmenter, features, marks, owner).logits[:, :1])
        marks = first_marks(rng, batch, np.zeros(len(target), bool), exact=True)
        found = decode(segmenter, features, marks, owner)
        fed = found.logits[torch.arange(len(owner)), found.iou[:, 1:].argmax(1) + 1]
        note("click1", fed[:, None])
        note("click1_oracle", found.logits[:, 1:])
        for click in range(2, 6):
            correct(rng, marks, fed, truth, 1, exact=True)
            fed = decode(segmenter, features, marks, owner).logits[:, 0]
            if click in (3, 5):
                note(f"click{click}", fed[:, None])
    return {name: float(torch.cat(values).mean()) for name, values in scores.items()}


def turned(batch: Batch, rng: np.random.Generator) -> Batch:
    """The pictures flipped and turned by quarters, some with inverted intensities."""
    images, masks = batch.images, batch.masks
    if rng.random() < 0.5:
        images, masks = images[:, ::-1], masks[:, ::-1]
    turns = int(rng.integers(4))
    images, masks = np.rot90(images, turns, (1, 2)), np.rot90(masks, turns, (1, 2))
    if rng.random() < 0.3:
        images = 255 - images
    return replace(batch, images=np.ascontiguousarray(images), masks=np.ascontiguousarray(masks))
