"""A training so small that it takes a second: bright squares on 32-pixel images."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from segkit.adapters import DepthwiseDilated
from segkit.data.batches import ImageBatch
from segkit.data.cases import Case
from segkit.data.preprocess import InputSpec
from segkit.data.sampling import EpochSampler
from segkit.errors import SegkitError
from segkit.lightning import (
    AutomaticModule,
    FitResult,
    OptimizerPlan,
    RunKeeper,
    SegmentationData,
    SegmentationModule,
    fit,
)
from segkit.losses import DiceCE
from segkit.models import Segmenter, build

SIZE, CASES = 32, 6


class Squares:
    """Stands in for `SliceDataModule`: two classes, two slices per case, always the same."""

    labels: dict[int, str] = {1: "left", 2: "right"}  # noqa: RUF012
    model_input = InputSpec(dimensions=3, size=SIZE)

    def __init__(self, batch_size: int = 2, seed: int = 0) -> None:
        self.batch_size, self.seed, self.fingerprint = batch_size, seed, "squares"

    def prepare(self) -> None:
        pass

    def cases(self, split: str) -> tuple[Case, ...]:
        count = {"train": CASES, "val": 3}[split]
        return tuple(Case(f"{split}_{i}", (Path("x"),), None, str(i)) for i in range(count))

    def train_loader(
        self, epoch: int, *, start: int = 0, rank: int = 0, ranks: int = 1
    ) -> "Batches":
        first = start * self.batch_size
        order = EpochSampler(CASES * 2, self.seed, epoch, first, rank=rank, ranks=ranks)
        return Batches("train", [draw.index for draw in order], self.batch_size)

    def val_loader(self, *, rank: int = 0, ranks: int = 1) -> "Batches":
        return Batches("val", list(range(rank, 6, ranks)), self.batch_size)


class Batches:
    def __init__(self, side: str, order: list[int], batch_size: int) -> None:
        self.side, self.order, self.batch_size = side, order, batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def explain(self, error: RuntimeError) -> SegkitError | None:
        return SegkitError("case 'x' killed its worker") if "worker" in str(error) else None

    def __iter__(self) -> Iterator[ImageBatch]:
        for first in range(0, len(self.order), self.batch_size):
            yield batch_of(self.side, self.order[first : first + self.batch_size])


def batch_of(side: str, indices: list[int]) -> ImageBatch:
    image = torch.zeros(len(indices), 3, SIZE, SIZE)
    mask = torch.zeros(len(indices), SIZE, SIZE, dtype=torch.long)
    for row, index in enumerate(indices):
        noise = torch.Generator().manual_seed(index + 1000 * (side == "val"))
        image[row] = 0.2 * torch.rand(3, SIZE, SIZE, generator=noise)
        top = 4 + index % 8
        for value, left in ((1, 3), (2, 19)):
            image[row, :, top : top + 12, left : left + 10] += 0.35 * value
            mask[row, top : top + 12, left : left + 10] = value
    ids = tuple(f"{side}_{index // 2}" for index in indices)
    slices = torch.tensor([index % 2 for index in indices])
    return ImageBatch(image, mask, ids, slices, torch.ones(len(indices), 2))


def tiny_segmenter(seed: int = 0, **options: Any) -> Segmenter:
    torch.manual_seed(seed)
    options = {"classes": 2, "adapter": DepthwiseDilated, "image_size": SIZE} | options
    return build.sam_tiny(**options)


def tiny_module(segmenter: Segmenter | None = None, **options: Any) -> SegmentationModule:
    options = {"optimizer": OptimizerPlan(lr=3e-3), "labels": Squares.labels} | options
    return AutomaticModule(segmenter or tiny_segmenter(), DiceCE(), **options)


def tiny_fit(run: str | Path, **options: Any) -> FitResult:
    """Train; trainer options start with `trainer_`, those of the keeper with `keeper_`."""
    trainer = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1}
    trainer |= _taken(options, "trainer_")
    keeper = _taken(options, "keeper_")
    module: Callable[[], nn.Module] = options.pop("module", tiny_module)
    slices = options.pop("slices", None) or Squares()
    return fit(
        module(),  # type: ignore[arg-type]
        SegmentationData(slices),
        run,
        trainer=partial(Trainer, **trainer),
        keeper=partial(RunKeeper, **keeper),
        **options,
    )


def _taken(options: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = [name for name in options if name.startswith(prefix)]
    return {name.removeprefix(prefix): options.pop(name) for name in names}
