"""What a training owes to its boxes: how far they miss, and how the cross-entropy is weighed.

Run: python -m benchmarks.box_noise --data FOLDER [--sets heads polyps hippocampus] [--seconds 45]

The decoder of `nano` trains on features that are kept, half boxes and half clicks, each followed by
two corrections; every row for the same process time. A fifth of the training pictures, of other
subjects where a set names them, is tested. Writes `results/box_noise.{json,csv,md}`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import table
from benchmarks.trainable import corners, interval, pictures_of
from benchmarks.training import Pictures, dice
from benchmarks.zero_shot_data import TRAINING_SETS
from benchmarks.zero_shot_methods import ellipse
from segkit.lightning.optimizer import OptimizerPlan, trainable_parameters
from segkit.losses import DiceBCE
from segkit.models.build import nano
from segkit.models.segmenter import Segmenter, upsample
from segkit.prompts.simulate import box_from_mask, extend, first_click, first_prompts, next_click
from segkit.typing import Features, Prompts

SIZE, BATCH, ROUNDS = 256, 4, 3
PLAN = OptimizerPlan(lr=2e-4, warmup=0.1)
TRAININGS = [(jitter, weight) for jitter in (0.0, 0.02, 0.1) for weight in (1.0, 10.0)]
"""Standard deviation of the sides of a box over its extent; largest weight of a positive pixel."""
TESTS = {"exact box": 0.0, "box off by 3 %": 0.03, "box off by 10 %": 0.1}


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Encoded pictures, their masks and whose they are."""

    features: Sequence[Features]
    pictures: Pictures
    subjects: Sequence[str]

    def batch(self, index: Sequence[int]) -> tuple[Features, Tensor]:
        """Features and masks of some of them."""
        chosen = [self.features[i] for i in index]
        levels = zip(*(one.levels for one in chosen), strict=True)
        together = replace(chosen[0], levels=tuple(torch.cat(level) for level in levels))
        return together, torch.from_numpy(self.pictures.masks[list(index)])


def prepare(segmenter: Segmenter, data: Path, name: str, limit: int) -> tuple[Objects, Objects]:
    """Objects to learn from and to test on; no subject is in both."""
    items = list(TRAINING_SETS[name](data, limit))
    names = sorted({item.subject for item in items})
    held_out = set(names[len(names) * 4 // 5 :])
    halves = []
    for is_test in (False, True):
        part = [item for item in items if (item.subject in held_out) is is_test]
        pictures = pictures_of(part, SIZE)
        with torch.inference_mode():
            images = torch.from_numpy(pictures.images).float() / 255
            features = [segmenter.encode(image[None]) for image in images]
        # inference tensors may not enter a training
        features = [replace(f, levels=tuple(x.clone() for x in f.levels)) for f in features]
        halves.append(Objects(features, pictures, [item.subject for item in part]))
    return halves[0], halves[1]


def train(objects: Objects, jitter: float, weight: float, seconds: float) -> tuple[Segmenter, int]:
    """Train a decoder until the process time is used; returns the model and its steps."""
    torch.manual_seed(0)
    segmenter, loss = (
        nano(image_size=SIZE, trainable="decoder"),
        DiceBCE(max_positive_weight=weight),
    )
    rng, optimizer = torch.Generator().manual_seed(0), PLAN.build(segmenter)
    parameters = list(trainable_parameters(segmenter).values())
    peaks = [group["lr"] for group in optimizer.param_groups]
    segmenter.train()
    steps, start = 0, time.process_time()
    while (used := time.process_time() - start) < seconds:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * PLAN.factor(used / seconds)
        index = torch.randint(len(objects.features), (BATCH,), generator=rng).tolist()
        features, masks = objects.batch(index)
        share = float(torch.rand((), generator=rng) < 0.5)
        prompts = first_prompts(masks, rng, box_share=share, jitter=jitter)
        total = torch.zeros(())
        for round_ in range(ROUNDS):
            logits = segmenter.decode(features, prompts).logits
            found = upsample(logits, masks.shape[1:])
            total = total + loss(found, masks[:, None].float())
            if round_ + 1 < ROUNDS:
                prompts = _corrected(prompts, found, logits, masks, rng)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        steps += 1
    return segmenter.eval(), steps


@torch.inference_mode()
def test(segmenter: Segmenter, objects: Objects) -> dict[str, str]:
    """Mean Dice with interval for each kind of prompt."""
    columns = {}
    for name, jitter in TESTS.items():
        rng = torch.Generator().manual_seed(0)
        found = []
        for index in _parts(len(objects.features)):
            features, masks = objects.batch(index)
            guess = segmenter.decode(features, box_from_mask(masks, rng, jitter=jitter)).logits
            found += map(dice, _binary(guess, masks), masks.numpy())
        columns[name] = interval(found, objects.subjects)
    rng, clicks = torch.Generator().manual_seed(0), {1: [], 5: []}
    for index in _parts(len(objects.features)):
        features, masks = objects.batch(index)
        prompts = first_click(masks, rng, place="deepest")
        for count in range(1, 6):
            logits = segmenter.decode(features, prompts).logits
            if count in clicks:
                clicks[count] += map(dice, _binary(logits, masks), masks.numpy())
            prompts = _corrected(prompts, upsample(logits, masks.shape[1:]), logits, masks, rng)
    return columns | {
        f"{n} click{'s' * (n > 1)}": interval(v, objects.subjects) for n, v in clicks.items()
    }


def _corrected(
    prompts: Prompts, found: Tensor, logits: Tensor, masks: Tensor, rng: torch.Generator
) -> Prompts:
    return extend(prompts, next_click(found[:, 0] > 0, masks, rng), logits.detach())


def _binary(logits: Tensor, masks: Tensor) -> np.ndarray:
    return (upsample(logits, masks.shape[1:])[:, 0] > 0).numpy()


def _parts(count: int) -> list[list[int]]:
    return [list(range(i, min(i + 10, count))) for i in range(0, count, 10)]


def main() -> None:
    """Train, test and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=TRAINING_SETS, default=list(TRAINING_SETS))
    parser.add_argument("--seconds", type=float, default=45.0, help="process time of a training")
    parser.add_argument("--limit", type=int, default=240, help="objects of a set")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[table.Row] = []
    for name in args.sets:
        base = nano(image_size=SIZE, trainable="decoder").eval()
        learn, held_out = prepare(base, args.data, name, args.limit)
        masks = held_out.pictures.masks
        ellipses = [dice(ellipse(mask.shape, corners(mask)), mask) for mask in masks]
        row = {"data": name, "boxes of training": "none: ellipse in the box", "weight": ""}
        rows.append(row | {"steps": "", "exact box": interval(ellipses, held_out.subjects)})
        zero_shot = {"boxes of training": "none: zero-shot", "steps": 0}
        rows.append(row | zero_shot | test(base, held_out))
        for jitter, weight in TRAININGS:
            segmenter, steps = train(learn, jitter, weight, args.seconds)
            how = {"boxes of training": f"off by {jitter:.0%}", "weight": weight, "steps": steps}
            rows.append({"data": name} | how | test(segmenter, held_out))
            print(rows[-1], flush=True)
    notes = (
        f"Decoder only, {args.seconds:g} s of process time on one core each, one seed; mean Dice "
        "at 256 pixels with a 95 % bootstrap interval over subjects. A box off by x: the standard "
        "deviation of each side over the extent of the box. `weight`: largest weight of a positive "
        "pixel in the cross-entropy; 1 is the plain mean, 10 balances small objects."
    )
    title = "Boxes a decoder is trained with"
    print(table.write("box_noise", title, rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
