"""Row TR5: training steps with and without what frozen blocks compute being kept.

Run: python -m benchmarks.bench_features
Steps of two equal trainings in turns, one that encodes every image and one that finds the frozen
part of images it has seen; random images, a real optimiser. Losses of both are compared at every
step: a row is written only if they agree.
"""

import time
from functools import partial

import torch

from benchmarks import table
from benchmarks.rows import Row, WrongResultError, raw_samples
from segkit.adapters import DepthwiseDilated
from segkit.data.batches import ImageBatch
from segkit.lightning import AutomaticModule, SegmentationModule, StemCacheSpec
from segkit.losses import DiceCE
from segkit.models import build
from segkit.models.builder import Builder

LABELS = {1: "left", 2: "right"}
AGREE = 1e-4


def batches(count: int, images: int, side: int) -> list[ImageBatch]:
    """Batches of noise with two boxes to find."""
    made = []
    for index in range(count):
        noise = torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(index))
        mask = torch.zeros(images, side, side, dtype=torch.long)
        third = side // 3
        mask[:, third : 2 * third, :third], mask[:, third : 2 * third, 2 * third :] = 1, 2
        shown = noise * 0.5 + 0.2 * mask[:, None]
        ids = tuple(f"{index}_{row}" for row in range(images))
        number = torch.arange(images)
        made.append(ImageBatch(shown, mask, ids, number, torch.ones(images, 2)))
    return made


def module(builder: Builder, **options: object) -> SegmentationModule:
    """A training of random or shipped weights, the same on each call."""
    torch.manual_seed(0)
    segmenter = builder(classes=len(LABELS), **options)  # type: ignore[arg-type]
    return AutomaticModule(segmenter, DiceCE(), labels=LABELS).train()


class Steps:
    """Steps of one training over and over the same batches."""

    def __init__(self, made: SegmentationModule, shown: list[ImageBatch]) -> None:
        self.module, self.batches, self.losses = made, shown, list[float]()
        trained = [p for p in made.segmenter.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def __call__(self) -> float:
        """One step; returns its processor time in milliseconds."""
        batch = self.batches[len(self.losses) % len(self.batches)]
        start = time.process_time()
        self.optimizer.zero_grad()
        loss = self.module.total_loss(self.module.predict_batch(batch, torch.Generator()))
        loss.backward()
        self.optimizer.step()
        self.losses.append(float(loss.detach()))
        return (time.process_time() - start) * 1e3


def compared(
    case: str, builder: Builder, side: int, images: int, *, epochs: int, **options: object
) -> Row:
    """Interleaved steps of all epochs after the one that fills the cache."""
    shown = batches(2, images, side)
    plain = Steps(module(builder, **options), shown)
    kept = Steps(module(builder, **options), shown)
    kept.module.stems = StemCacheSpec(mode="ram").open(kept.module.segmenter, images_recur=True)
    samples: dict[str, list[float]] = {"plain": [], "kept": []}
    for step in range(epochs * len(shown)):
        for name, one in (("plain", plain), ("kept", kept)):
            spent = one()
            if step >= len(shown):
                samples[name].append(spent)
    off = max(abs(a - b) / abs(a) for a, b in zip(plain.losses, kept.losses, strict=True))
    if off > AGREE:
        raise WrongResultError(f"{case}: losses differ by {off:.1e}")
    blocks = kept.module.segmenter.backbone.frozen_blocks
    return Row(
        "TR5", f"{case}, {images} x {side} x {side}", min(samples["kept"]), min(samples["plain"]),
        "ms CPU per step", 1.0, "the same training, nothing kept", off,
        f"{blocks} of {len(kept.module.segmenter.spec.blocks)} blocks kept; "
        f"{min(samples['plain']) / min(samples['kept']):.1f} times the steps",
        samples,
    )  # fmt: skip


def main() -> None:
    """Measure and write `results/features.*`."""
    rows = [
        compared("nano, decoder alone", build.nano, 256, 4, epochs=6, trainable="decoder"),
        compared(
            "nano, dilated adapter after block 4 of 6", build.nano, 256, 4,
            epochs=6, adapter=partial(DepthwiseDilated, start=3),
        ),
        compared("nano, dilated adapter after every block", build.nano, 256, 4,
                 epochs=9, adapter=DepthwiseDilated),
        compared(
            "ViT-B, decoder alone", build.sam_vit_b, 512, 1, epochs=3,
            trainable="decoder", checkpoint="random",
        ),
    ]  # fmt: skip
    notes = (
        "Least processor time per step of interleaved trainings after the epoch that fills the "
        "cache. `relative error`: largest difference of the losses over all steps."
    )
    title = "Training on kept features, on the CPU"
    cells = [row.cells() for row in rows]
    print(table.write("features", title, cells, notes=notes, raw=raw_samples(rows)).read_text())


if __name__ == "__main__":
    main()
