"""Masks as continuous functions against resized masks: one adapter, one budget, two decoders.

Run: python -m benchmarks.inr --data FOLDER [--steps 150] [--limit 16]

FOLDER holds 2d/ and video/. `nano` with the low-rank and frequency adapters of I-MedSAM learns
polyps from boxes twice: with the implicit decoder and with SAM's mask decoder. Both are asked for
masks of several sizes from one size of input, and for masks of pictures of another kind. Writes
`results/inr.{json,csv,md}` and `results/inr_domains.{json,csv,md}`.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from benchmarks import table
from benchmarks.training import POLYPS, Pictures, dice, items, tight_box, train
from benchmarks.zero_shot_data import SETS, Item
from benchmarks.zero_shot_methods import ellipse
from segkit.adapters import Frequency, LoRA, Stack
from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.volume import Picture
from segkit.decoders import InrDecoder
from segkit.evaluation.statistics import mean_interval
from segkit.lightning.optimizer import OptimizerPlan, trainable_parameters
from segkit.losses import IMedSamLoss
from segkit.metrics.surface import surface_distances
from segkit.models import build
from segkit.models.segmenter import Segmenter, upsample
from segkit.predictors import ImagePredictor
from segkit.prompts.simulate import box_from_mask

SEED = 0
OUTPUTS = (128, 384, 896)
TOLERANCES_PX = (1.0, 2.0)
DOMAINS = {"polyps": "trained on", "heads": "fetal heads, ultrasound", "cine": "heart, cine MR"}
Mask = Bool[np.ndarray, "h w"]
Way = Callable[[Item, int], Mask]


def trained(decoder: Callable[..., Any] | None, pictures: Pictures, steps: int) -> Segmenter:
    """`nano` with I-MedSAM's adapters and one of the decoders."""
    torch.manual_seed(SEED)
    adapter = partial(Stack, adapters=[partial(LoRA, rank=4, targets=["q", "v"]), Frequency])
    segmenter = build.nano(adapter=adapter, decoder=decoder, image_size=pictures.images.shape[-1])
    # a new field needs the rate that its paper gives it; the pretrained decoder a gentler one
    rates = {"adapter": 1e-3, "decoder": 1e-4 if decoder is None else 1e-3}
    plan = OptimizerPlan(lr_by_part=rates, warmup=0.1)
    seconds = train(segmenter, pictures, IMedSamLoss(), steps=steps, seed=SEED, plan=plan)
    count = sum(p.numel() for p in trainable_parameters(segmenter).values())
    print(f"{count:,} trained parameters, {1e3 * seconds:.0f} ms per step", flush=True)
    return segmenter.eval()


class Sizes:
    """Masks of any size from one input, by the tight box of the reference."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter, side = segmenter, segmenter.spec.image_size
        self.spec = InputSpec(2, side, "rgb", Intensity("full"))

    @torch.inference_mode()
    def resized(self, item: Item, size: int) -> Mask:
        """Logits at the decoder's own resolution, enlarged or reduced."""
        logits = self._decode(item, None)
        if size < logits.shape[-1]:
            return _mask(F.interpolate(logits, (size, size), mode="bilinear", antialias=True))
        return _mask(upsample(logits, (size, size)))

    @torch.inference_mode()
    def continuous(self, item: Item, size: int) -> Mask:
        """The field at the centres of the pixels asked for."""
        return _mask(self._decode(item, (size, size)))

    def _decode(self, item: Item, size: tuple[int, int] | None) -> Tensor:
        view = SliceView(Picture(item.image), self.spec)
        assert view.content_size == (self.spec.size, self.spec.size), "pictures must be square here"
        features = self.segmenter.encode(torch.from_numpy(view.image(0))[None])
        prompts = box_from_mask(torch.from_numpy(view.label(item.mask, 0))[None])
        return self.segmenter.decode(features, prompts, size=size).logits


def _mask(logits: Tensor) -> Mask:
    return (logits[0, 0] > 0).numpy()


def reference(mask: Mask, size: int) -> Mask:
    """A mask at another size: majority of the area where it shrinks, linear where it grows."""
    planes = torch.from_numpy(mask).float()[None, None]
    if size < min(mask.shape):
        return (F.interpolate(planes, (size, size), mode="area")[0, 0] > 0.5).numpy()
    return (F.interpolate(planes, (size, size), mode="bilinear")[0, 0] > 0.5).numpy()


def figures(found: Mask, truth: Mask) -> list[float]:
    """Dice, and NSD at each tolerance; an empty prediction has 0."""
    if not found.any():
        return [0.0] * (1 + len(TOLERANCES_PX))
    distances = surface_distances(found, truth, (1.0, 1.0))
    return [dice(found, truth), *(distances.nsd(tolerance) for tolerance in TOLERANCES_PX)]


def size_rows(ways: Mapping[str, Way], test: Sequence[Item]) -> list[dict[str, Any]]:
    """Each way at each output size."""
    rows = []
    for size in OUTPUTS:
        truths = [reference(item.mask, size) for item in test]
        for name, way in ways.items():
            found = [
                figures(way(item, size), truth) for item, truth in zip(test, truths, strict=True)
            ]
            rows.append({"output px": size, "masks": name, **_columns(found)})
            print(rows[-1], flush=True)
    return rows


def domain_rows(models: Mapping[str, Segmenter], root: Path, limit: int) -> list[dict[str, Any]]:
    """Each model on pictures of its own kind and of others, on the pixels of the file."""
    rows = []
    for name, kind in DOMAINS.items():
        chosen = list(SETS[name](root, limit))
        subjects = [item.subject for item in chosen]
        for title, segmenter in models.items():
            predictor = ImagePredictor(segmenter, device="cpu")
            found = []
            for item in chosen:
                session = predictor.open(Picture(item.image)).add_box(tight_box(item.mask))
                found.append(figures(session.mask(), item.mask))
            rows.append(
                {"test set": f"{name} ({kind})", "model": title, **_columns(found, subjects)}
            )
            print(rows[-1], flush=True)
        found = [figures(_ellipse(item), item.mask) for item in chosen]
        own = {"test set": f"{name} ({kind})", "model": "ellipse in the box"}
        rows.append({**own, **_columns(found, subjects)})
    return rows


def _ellipse(item: Item) -> Mask:
    (top, left), (bottom, right) = tight_box(item.mask)
    return ellipse(item.mask.shape, (left, top, right - 1, bottom - 1))


def _columns(
    found: Sequence[Sequence[float]], subjects: Sequence[str] | None = None
) -> dict[str, Any]:
    names = ["Dice", *(f"NSD {tolerance:g} px" for tolerance in TOLERANCES_PX)]
    columns: dict[str, Any] = {}
    for name, values in zip(names, zip(*found, strict=True), strict=True):
        one = mean_interval(values, subjects)
        columns[name] = round(one.mean, 4)
        columns[f"{name} 95 %"] = f"{one.low:.3f} to {one.high:.3f}"
    return columns | {"pictures": len(found)}


def main() -> None:
    """Train both, then write both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inr", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--input", type=int, default=192, help="pixels a side")
    parser.add_argument("--width", type=int, default=32, help="of the implicit decoder")
    parser.add_argument("--limit", type=int, default=16, help="test pictures of each set")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = Pictures.read(args.data / POLYPS / "train", args.input)
    field = trained(partial(InrDecoder, width=args.width), pictures, args.steps)
    discrete = trained(None, pictures, args.steps)
    test = items(args.data / POLYPS / "test")
    test = [test[number * len(test) // args.limit] for number in range(min(args.limit, len(test)))]
    ways: dict[str, Way] = {
        "implicit decoder, asked at the output size": Sizes(field).continuous,
        "implicit decoder at its own size, resized": Sizes(field).resized,
        "mask decoder, resized": Sizes(discrete).resized,
    }
    budget = (
        f"`nano` at {args.input} pixels with LoRA (rank 4, q and v) and the frequency stream, "
        f"{args.steps} steps of 4 polyp pictures with jittered boxes, one seed, the loss of "
        f"I-MedSAM for both decoders; implicit decoder of width {args.width}, its rate 1e-3, "
        "that of the pretrained mask decoder 1e-4. Tests use the tight box of the reference, an "
        "oracle prompt. Intervals: 95 % bootstrap over subjects."
    )
    rows = size_rows(ways, test)
    notes = (
        f"{budget} Both decoders have {args.input // 4} cells a side of their own. References have "
        "352 pixels a side: larger ones are enlarged linearly and hold no finer detail. NSD in "
        f"pixels of the output. System load at the end {os.getloadavg()[0]:.1f}."
    )
    title = "Masks of several sizes from one input, polyps"
    print(table.write("inr", title, rows, notes=notes).read_text())
    models = {
        "implicit decoder": field,
        "mask decoder": discrete,
        "zero-shot": build.nano(image_size=args.input),
    }
    rows = domain_rows(models, args.data, args.limit)
    notes = (
        f"{budget} Trained on polyps only; heads and hearts are single round objects with a box, "
        "as polyps are, in pictures that differ in every other respect. Figures on the "
        "pixels of the file."
    )
    title = "Trained on polyps, tested on other pictures"
    print(table.write("inr_domains", title, rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
