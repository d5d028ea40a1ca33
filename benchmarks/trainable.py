"""What is trained matters: decoder, adapter and decoder, everything, or a model without weights.

Run: python -m benchmarks.trainable --data FOLDER [--sets hippocampus polyps heads] [--seconds 120]

Every method trains on the same pictures and prompts for the same process time on one core, on
`nano`, and is tested with one click and with a box. Single runs are appended to
`results/trainable_runs.jsonl` under the hash of the weights and not repeated. Writes
`results/trainable.{json,csv,md}`.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import table
from benchmarks.training import Pictures, dice
from benchmarks.zero_shot_data import SETS, TRAINING_SETS, Item
from benchmarks.zero_shot_methods import ellipse
from segkit.adapters import DepthwiseDilated
from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.volume import Picture
from segkit.evaluation.statistics import mean_interval, paired_difference
from segkit.lightning.optimizer import OptimizerPlan, trainable_parameters
from segkit.losses import DiceBCE
from segkit.models.build import nano
from segkit.models.segmenter import Segmenter, upsample
from segkit.prompts.encoder import SamPromptEncoder
from segkit.prompts.simulate import box_from_mask, first_click, first_prompts

TITLE = "What is trained: decoder, adapter, everything, from scratch, at equal time"
SIZE, BATCH = 128, 4
JITTER = 0.02
RUNS = table.RESULTS / "trainable_runs.jsonl"


@dataclass(frozen=True, slots=True)
class Method:
    """How a model is built and how fast its parts learn."""

    options: Mapping[str, Any]
    plan: OptimizerPlan


def _plan(lr: float, **by_part: float) -> OptimizerPlan:
    return OptimizerPlan(lr=lr, lr_by_part=by_part, warmup=0.1)


_whole = {"trainable": "all", "prompt_encoder": partial(SamPromptEncoder, trained="all")}
METHODS: Mapping[str, Method] = {
    "zero-shot": Method({}, _plan(0.0)),
    "decoder only": Method({"trainable": "decoder"}, _plan(3e-4)),
    "adapter + decoder": Method({"adapter": DepthwiseDilated}, _plan(3e-4, adapter=1e-3)),
    "full fine-tuning": Method(_whole, _plan(3e-4, encoder=1e-4)),
    "from scratch": Method({"checkpoint": "random", **_whole}, _plan(5e-4)),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One training and what came of it: Dice of each test object with a click and with a box."""

    data: str
    method: str
    seconds: float
    sha256: str
    parameters: int = 0
    steps: int = 0
    click: tuple[float, ...] = ()
    box: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it another run; the frozen model has no budget."""
        return (self.data, self.method, self.seconds, self.sha256)


def pictures_of(items: Sequence[Item], size: int = SIZE) -> Pictures:
    """Objects as the model sees them, image and mask at `size` pixels."""
    spec = InputSpec(2, size, "rgb", Intensity("full"))
    views = [SliceView(Picture(item.image), spec) for item in items]
    images = [np.rint(255 * view.image(0)).astype(np.uint8) for view in views]
    masks = [view.label(item.mask, 0) for view, item in zip(views, items, strict=True)]
    return Pictures(np.stack(images), np.stack(masks))


def train(segmenter: Segmenter, pictures: Pictures, plan: OptimizerPlan, seconds: float) -> int:
    """Train on clicks and boxes until the process time is used; returns the number of steps."""
    rng, loss = torch.Generator().manual_seed(0), DiceBCE()
    optimizer = plan.build(segmenter)
    parameters = list(trainable_parameters(segmenter).values())
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps, start = 0, time.process_time()
    segmenter.train()
    while (used := time.process_time() - start) < seconds:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * plan.factor(used / seconds)
        images, masks = draw_batch(pictures, rng)
        prompts = first_prompts(masks, rng, jitter=JITTER)
        logits = segmenter.decode(segmenter.encode(images), prompts).logits
        optimizer.zero_grad(set_to_none=True)
        loss(upsample(logits, masks.shape[1:]), masks[:, None].float()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        steps += 1
    segmenter.eval()
    return steps


def draw_batch(pictures: Pictures, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures in [0, 1] and masks, flipped at random along both axes."""
    index = torch.randint(len(pictures.images), (BATCH,), generator=rng).numpy()
    images = torch.from_numpy(pictures.images[index]).float() / 255
    masks = torch.from_numpy(pictures.masks[index])
    for axis in (-2, -1):
        if torch.rand((), generator=rng) < 0.5:
            images, masks = images.flip(axis), masks.flip(axis)
    return images, masks


@torch.inference_mode()
def score(segmenter: Segmenter, pictures: Pictures, kind: str) -> tuple[float, ...]:
    """Dice at `SIZE` pixels with a click on the deepest pixel, or with the tight box."""
    found: list[float] = []
    rng = torch.Generator().manual_seed(0)
    for start in range(0, len(pictures.images), 10):
        images = torch.from_numpy(pictures.images[start : start + 10]).float() / 255
        masks = torch.from_numpy(pictures.masks[start : start + 10])
        prompts = (
            box_from_mask(masks) if kind == "box" else first_click(masks, rng, place="deepest")
        )
        prediction = segmenter.decode(segmenter.encode(images), prompts)
        guesses = upsample(prediction.logits, masks.shape[1:])[:, 0] > 0
        found += map(dice, guesses.numpy(), masks.numpy())
    return tuple(round(value, 5) for value in found)


def measure(run: Run, learn: Pictures, test: Pictures) -> Run:
    """Train and test one method."""
    method = METHODS[run.method]
    torch.manual_seed(0)
    segmenter = nano(image_size=SIZE, **method.options).eval()
    count = steps = 0
    if run.seconds:
        count = sum(one.numel() for one in trainable_parameters(segmenter).values())
        steps = train(segmenter, learn, method.plan, run.seconds)
    return replace(
        run,
        parameters=count,
        steps=steps,
        click=score(segmenter, test, "click"),
        box=score(segmenter, test, "box"),
    )


def known_runs() -> dict[tuple[object, ...], Run]:
    """Runs of earlier calls."""
    if not RUNS.exists():
        return {}
    read = [json.loads(line) for line in RUNS.read_text().splitlines()]
    runs = [Run(**{**one, "click": tuple(one["click"]), "box": tuple(one["box"])}) for one in read]
    return {run.key: run for run in runs}


def rows_of(runs: Sequence[Run], subjects: Sequence[str], test: Pictures) -> list[dict[str, Any]]:
    """One row per method of one set, with paired differences to training the decoder alone."""
    ellipses = [dice(ellipse(mask.shape, corners(mask)), mask) for mask in test.masks]
    rows: list[dict[str, Any]] = [
        {"data": runs[0].data, "method": "ellipse in the box", "box": interval(ellipses, subjects)}
    ]
    base = next((run for run in runs if run.method == "decoder only"), None)
    for run in runs:
        row: dict[str, Any] = {
            "data": run.data, "method": run.method, "trained": f"{run.parameters:,}",
            "steps": run.steps,
        }  # fmt: skip
        for kind in ("click", "box"):
            values: tuple[float, ...] = getattr(run, kind)
            row[kind] = interval(values, subjects)
            if base is not None and run.method not in ("decoder only", "zero-shot"):
                other = paired_difference(values, getattr(base, kind), subjects)
                row[f"{kind} minus decoder only"] = (
                    f"{other.mean:+.3f} [{other.low:+.3f}, {other.high:+.3f}]"
                )
        rows.append(row)
    return rows


def interval(values: Sequence[float], subjects: Sequence[str]) -> str:
    """Mean with a 95 % bootstrap interval over subjects, as it stands in a table."""
    found = mean_interval(values, subjects)
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def corners(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Tight box of a mask: x0, y0, x1, y1, all inside it."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(cols[0]), int(rows[0]), int(cols[-1]), int(rows[-1])


def main() -> None:
    """Run what has not been run, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainable", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--sets", nargs="+", choices=list(TRAINING_SETS), default=list(TRAINING_SETS)
    )
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=120, help="process time of a training")
    parser.add_argument("--pictures", type=int, default=100, help="for training, of each set")
    parser.add_argument("--limit", type=int, default=60, help="test objects of each set")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sha256, known = nano().recipe.backbone.sha256, known_runs()
    rows: list[dict[str, Any]] = []
    for name in args.sets:
        learn = pictures_of(list(TRAINING_SETS[name](args.data, args.pictures)))
        items = list(SETS[name](args.data, args.limit))
        test = pictures_of(items)
        runs = []
        for method in args.methods:
            run = Run(name, method, 0.0 if method == "zero-shot" else args.seconds, sha256)
            if run.key not in known:
                known[run.key] = measure(run, learn, test)
                with RUNS.open("a") as file:
                    file.write(json.dumps(asdict(known[run.key])) + "\n")
            runs.append(known[run.key])
            print(name, method, f"{np.mean(runs[-1].click):.4f}", flush=True)
        rows += rows_of(runs, [item.subject for item in items], test)
        path = table.write("trainable", TITLE, rows, notes=_notes(args, sha256))
    print(path.read_text())


def _notes(args: argparse.Namespace, sha256: str) -> str:
    return (
        f"`nano` with {SIZE} pixels a side; {args.seconds:g} s of process time on one core for "
        f"every training, {BATCH} pictures a step, half clicks, half boxes (jitter {JITTER}); "
        f"{args.pictures} training pictures and at most {args.limit} test objects of each set, one "
        "seed. AdamW; learning rates 3e-4 (decoder), 1e-3 (adapter), 1e-4 (encoder), 5e-4 (from "
        "scratch), set beforehand and not tuned. The adapter is `dilated`. Dice at the size of the "
        "model with a 95 % bootstrap interval over subjects; one click on the deepest pixel of the "
        "reference or its tight box, both oracle prompts; the mask is the decoder's first. "
        f"`trained` counts trainable parameters. Weights sha256 {sha256}."
    )


if __name__ == "__main__":
    main()
