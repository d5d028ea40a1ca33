"""Stage 2: prompts on the first frame, tracking, occasional corrections, and their losses."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.memory import MemoryBank
from segkit.models.tracker import ObjectPrompt, Tracker, TrackPrediction
from segkit.typing import Features
from tools.nano.objects import box_of, first_click, next_click
from tools.nano.step import mask_loss, overlap, solid
from tools.nano2.pictures import CELL
from tools.nano2.pool import Encoded, frame_of

KINDS = ("box", "mask", "click")


def start(
    clips: list[Encoded], kind: str, rng: np.random.Generator, *, exact: bool
) -> tuple[MemoryBank, dict[int, ObjectPrompt], Tensor]:
    """Bank, prompts on the first frame and targets `[objects t h w]` of all objects."""
    prompts: dict[int, ObjectPrompt] = {}
    places: list[int] = []
    for place, clip in enumerate(clips):
        for masks in clip.masks:
            prompts[len(places)] = _first(masks[0], kind, rng, exact=exact)
            places.append(place)
    bank = MemoryBank(rounds=False).add(range(len(places)), places)
    return bank, prompts, torch.cat([clip.shares for clip in clips])


def _first(mask: Any, kind: str, rng: np.random.Generator, *, exact: bool) -> ObjectPrompt:
    if kind == "mask":
        return ObjectPrompt(mask=torch.from_numpy(mask))
    if kind == "box":
        corners = box_of(rng, mask, 0.0 if exact or rng.random() < 0.5 else 0.05)
        return _marks(corners, (2, 3))
    return _marks(np.array([first_click(rng, mask, exact or rng.random() < 0.6)]), (1,))


def _marks(xy: Any, labels: tuple[int, ...], previous: Tensor | None = None) -> ObjectPrompt:
    points = torch.zeros(len(xy), 3)
    points[:, 1], points[:, 2] = torch.from_numpy(xy[:, 1]), torch.from_numpy(xy[:, 0])
    return ObjectPrompt(points, torch.tensor(labels), previous=previous)


def clip_loss(
    tracker: Tracker, clips: list[Encoded], rng: np.random.Generator, progress: float
) -> tuple[Tensor, dict[str, float]]:
    """Loss over the frames of some clips, every frame alike; clips grow with `progress`."""
    kind = str(rng.choice(KINDS, p=(0.45, 0.4, 0.15)))
    bank, prompts, shares = start(clips, kind, rng, exact=False)
    order = _order(shares.shape[1], progress, rng)
    corrected = int(rng.choice(order[1:])) if rng.random() < 0.25 else -1
    losses, facts = [], {}
    for index in order:
        features = frame_of(clips, index)
        before = bank
        found, bank = tracker.step(features, prompts if index == 0 else None, bank)
        if index or kind != "mask":
            loss, iou = _frame_loss(found, shares[:, index])
            losses.append(loss)
            facts["first" if index == 0 else f"track_{kind}"] = iou
        if index == corrected:
            found, changed = _correct(tracker, features, found, shares[:, index], before, rng)
            bank = changed.at(bank.frame)
            loss, facts["corrected"] = _frame_loss(found, shares[:, index])
            losses.append(loss)
    total = torch.stack(losses).mean()
    return total, facts | {"loss": float(total.detach())}


def _order(length: int, progress: float, rng: np.random.Generator) -> list[int]:
    """Frames to visit: three at first, then four, then all; sometimes every other one."""
    count = 3 if progress < 0.5 else 4 if progress < 0.8 else length
    if count <= length // 2 and rng.random() < 0.5:
        return list(range(0, 2 * count, 2))
    return list(range(count))


def _frame_loss(found: TrackPrediction, share: Tensor) -> tuple[Tensor, float]:
    """Mask and IoU of what is visible, visibility of everything; and the mean IoU."""
    truth, visible = solid(share), share.amax((1, 2)) > 0.3
    score = F.binary_cross_entropy_with_logits(found.score[:, 0], visible.float())
    if not visible.any():
        return 0.5 * score, 0.0
    raw = found.raw[visible]
    quality = overlap(raw.detach(), truth[visible])
    mask = mask_loss(raw, share[visible], 0.5).mean()
    rank = F.mse_loss(found.iou[visible], quality)
    return mask + 0.5 * score + rank, float(quality.mean())


def _correct(
    tracker: Tracker,
    features: Features,
    found: TrackPrediction,
    share: Tensor,
    bank: MemoryBank,
    rng: np.random.Generator,
) -> tuple[TrackPrediction, MemoryBank]:
    """Click into the error of every object that is visible; the others are tracked."""
    prompts: dict[int, ObjectPrompt] = {}
    truth, guess = solid(share).numpy(), (found.logits[:, 0] > 0).numpy()
    for row in range(len(found.ids)):
        if truth[row].any():
            col, line, label = next_click(rng, guess[row], truth[row], rng.random() < 0.6)
            xy = CELL * np.array([[col, line]]) + rng.uniform(0, CELL - 1, 2)
            prompts[found.ids[row]] = _marks(xy, (label,), found.raw[row].detach())
    return tracker.step(features, prompts or None, bank)


@torch.no_grad()
def validate(tracker: Tracker, clips: list[Encoded]) -> dict[str, float]:
    """Mean Dice of tracked objects on the frames that show them, by first prompt.

    "copy" is the first mask kept as it is; "visible" the share of frames where visibility is right.
    """
    scores: dict[str, list[Tensor]] = {}
    right: list[Tensor] = []
    for first in range(0, len(clips), 8):
        batch = clips[first : first + 8]
        for kind in KINDS:
            bank, prompts, shares = start(batch, kind, np.random.default_rng(0), exact=True)
            for index in range(shares.shape[1]):
                found, bank = tracker.step(frame_of(batch, index), None if index else prompts, bank)
                truth, visible = solid(shares[:, index]), shares[:, index].amax((1, 2)) > 0.3
                if index:
                    right.append(((found.score[:, 0] > 0) == visible).float())
                    scores.setdefault(kind, []).append(_dice(found.logits, truth)[visible])
                    if kind == "mask":
                        copied = 2.0 * solid(shares[:, 0])[:, None] - 1
                        scores.setdefault("copy", []).append(_dice(copied, truth)[visible])
    means = {name: float(torch.cat(values).mean()) for name, values in scores.items()}
    return means | {"visible": float(torch.cat(right).mean())}


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    iou = overlap(logits, truth)[:, 0]
    return 2 * iou / (1 + iou)
