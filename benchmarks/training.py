"""Short trainings with boxes, the same for every method of a table."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from benchmarks.zero_shot_data import Item
from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.volume import Picture
from segkit.lightning.optimizer import OptimizerPlan, trainable_parameters
from segkit.models.segmenter import Segmenter, upsample
from segkit.prompts.simulate import box_from_mask
from segkit.typing import BOX_FIRST, BOX_LAST, MaskPrediction, Prompts

POLYPS = "2d/kvasir_polyp"
EPOCHS = 25
"""Parts of a training; decoders that change from epoch to epoch count them."""
JITTER = 0.02
CLIP = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Pictures as a model sees them, and their masks, at `size` pixels."""

    images: UInt8[np.ndarray, "n 3 size size"]
    masks: Bool[np.ndarray, "n size size"]

    @classmethod
    def read(cls, folder: Path, size: int) -> "Pictures":
        """Read images/ and masks/ of a split; pictures without an object are left out."""
        spec = InputSpec(2, size, "rgb", Intensity("full"))
        images, masks = [], []
        for item in items(folder):
            view = SliceView(Picture(item.image), spec)
            mask = view.label(item.mask, 0)
            if mask.any():
                images.append(np.rint(view.image(0) * 255).astype(np.uint8))
                masks.append(mask)
        return cls(np.stack(images), np.stack(masks))


def items(folder: Path) -> list[Item]:
    """Pictures of a split at their own size, one object each."""
    found = []
    for path in sorted((folder / "masks").iterdir()):
        image = next((folder / "images").glob(path.stem + ".*"))
        pixels = np.asarray(Image.open(image).convert("RGB"))
        found.append(Item(path.stem, pixels, np.asarray(Image.open(path).convert("L")) > 127))
    return found


Loss = Callable[[Tensor, Tensor], Tensor]


def train(
    segmenter: Segmenter,
    pictures: Pictures,
    loss: Loss,
    *,
    steps: int,
    seed: int,
    plan: OptimizerPlan,
    batch: int = 4,
) -> float:
    """Train on jittered boxes; returns the process seconds of a step, the first left out.

    Order of the pictures, flips and jitter depend on `seed` and on nothing else, so every method
    sees the same.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    order = _order(len(pictures.images), steps * batch, rng)
    optimizer = plan.build(segmenter)
    parameters = list(trainable_parameters(segmenter).values())
    peak_rates = [group["lr"] for group in optimizer.param_groups]
    start = time.process_time()
    segmenter.train()
    for step in range(steps):
        epoch = step * EPOCHS // steps
        segmenter.decoder.begin_epoch(epoch)
        for group, rate in zip(optimizer.param_groups, peak_rates, strict=True):
            group["lr"] = rate * plan.factor(step / steps)
        image, mask = _batch(pictures, order[step * batch : (step + 1) * batch], rng)
        prompts = box_from_mask(mask, rng, jitter=JITTER)
        prediction = segmenter.decode(segmenter.encode(image), prompts)
        optimizer.zero_grad(set_to_none=True)
        _total(prediction, mask[:, None].float(), loss, epoch).backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        if step == 0:
            start = time.process_time()
    segmenter.eval()
    return (time.process_time() - start) / max(steps - 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Test:
    """Square pictures of one size with the tight box of the reference, an oracle prompt."""

    images: UInt8[np.ndarray, "n 3 size size"]
    masks: Bool[np.ndarray, "n side side"]  # at the size of the files

    @classmethod
    def read(cls, folder: Path, size: int) -> "Test":
        """Read a split whose pictures all have one square size."""
        spec, found = InputSpec(2, size, "rgb", Intensity("full")), items(folder)
        views = [SliceView(Picture(item.image), spec).image(0) for item in found]
        images = np.stack([np.rint(view * 255).astype(np.uint8) for view in views])
        return cls(images, np.stack([item.mask for item in found]))

    @torch.inference_mode()
    def dice(self, segmenter: Segmenter, batch: int = 10) -> list[float]:
        """Dice on the pixels of the files."""
        size, side = self.images.shape[-1], self.masks.shape[-1]
        found: list[float] = []
        for start in range(0, len(self.images), batch):
            images = torch.from_numpy(self.images[start : start + batch]).float() / 255
            masks = self.masks[start : start + batch]
            prediction = segmenter.decode(segmenter.encode(images), self._boxes(masks, size / side))
            logits = upsample(upsample(prediction.logits, (size, size)), (side, side))[:, 0]
            found += map(dice, (logits > 0).numpy(), masks)
        return found

    def _boxes(self, masks: Bool[np.ndarray, "n side side"], scale: float) -> Prompts:
        corners = np.array([tight_box(mask) for mask in masks], dtype=float) * scale
        corners[:, 1] -= 1  # corners of the model are inclusive
        points = torch.zeros(len(masks), 2, 3)
        points[..., 1:] = torch.from_numpy(corners)
        return Prompts(points, torch.tensor([[BOX_FIRST, BOX_LAST]]).expand(len(masks), -1))


def tight_box(mask: Bool[np.ndarray, "h w"]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Half-open box around a mask, (row, column)."""
    inside = np.argwhere(mask)
    return tuple(inside.min(axis=0).tolist()), tuple((inside.max(axis=0) + 1).tolist())


def dice(first: Bool[np.ndarray, "..."], second: Bool[np.ndarray, "..."]) -> float:
    """Dice of two masks; the reference is never empty here."""
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


def _order(count: int, wanted: int, rng: torch.Generator) -> Tensor:
    rounds = [torch.randperm(count, generator=rng) for _ in range(-(-wanted // count))]
    return torch.cat(rounds)[:wanted]


def _batch(pictures: Pictures, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(pictures.images[index.numpy()]).float() / 255
    masks = torch.from_numpy(pictures.masks[index.numpy()])
    for axis in (-2, -1):
        if torch.rand((), generator=rng) < 0.5:
            images, masks = images.flip(axis), masks.flip(axis)
    return images, masks


def _total(prediction: MaskPrediction, target: Tensor, loss: Loss, epoch: int) -> Tensor:
    """Loss at the size of the input; coarse logits count less and less over five epochs."""
    fine = loss(upsample(prediction.logits, target.shape[2:]), target)
    if prediction.coarse is None or epoch >= 4:
        return fine
    share = (epoch + 1) / 5
    coarse = loss(upsample(prediction.coarse, target.shape[2:]), target)
    return share * fine + (1 - share) * coarse
