"""Rows TR1 to TR4: training steps, samples per second and peak memory.

Ours in bf16 (autocast) beside ours in float32, which is also the reference of the loss. The
released training loops are no contenders here: they are not importable as one step. Their own
modules are those of `benchmarks.bench_kernels` (K1 to K4) and `benchmarks.bench_train` (C8).
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu import Row
from benchmarks.gpu_race import Bench, Call, Race, run
from segkit.adapters import DepthwiseDilated, Spatial
from segkit.losses import DiceBCE
from segkit.memory import MemoryBank
from segkit.models import build
from segkit.models.segmenter import Segmenter, upsample
from segkit.models.tracker import ObjectPrompt, Tracker
from segkit.typing import Grid, Prompts

ABSENT = {"authors": "the released loop is not importable as a step; see K1-K4 and C8"}


def volume(bench: Bench) -> Iterator[Row]:
    """TR1, TR2: 3DSAM-adapter, one volume of 128^3 with one click."""
    builder = build.sam3d_tiny if bench.is_dry else build.sam3d_vit_b
    side, options = (None, {}) if bench.is_dry else (128, {"checkpoint": "random"})
    model = builder(adapter=Spatial, checkpointing=not bench.is_dry, **options)
    model = model.train().to(bench.device)
    side = side or model.spec.image_size
    generator = torch.Generator().manual_seed(0)
    shape = (8 if bench.is_dry else side, side, side)
    image = torch.rand(shape[0], 3, side, side, generator=generator).to(bench.device)
    i, j, k = (torch.arange(length, device=bench.device) - length / 2 for length in shape)
    ball = i[:, None, None] ** 2 + j[:, None] ** 2 + k**2 < (side / 4) ** 2
    middle = torch.tensor([[[length / 2 for length in shape]]], device=bench.device)
    click = Prompts(middle, torch.ones(1, 1, dtype=torch.long, device=bench.device))

    def loss(model: Segmenter) -> Tensor:
        found = model.decode(model.encode(image, Grid(shape)), click).logits
        return DiceBCE()(upsample(found.float(), shape), ball[None, None].float())

    yield from _steps(bench, "TR1", "TR2", f"3DSAM-adapter, {shape}", model, loss, 1)


def clip(bench: Bench) -> Iterator[Row]:
    """TR3, TR4: DD-SAM2 on a clip of eight frames at 512, a click on the first."""
    count = 3 if bench.is_dry else 8
    adapter = partial(DepthwiseDilated, blocks=None if bench.is_dry else 6, compat="authors")
    builder = build.sam2_test if bench.is_dry else build.sam2_tiny
    options = {} if bench.is_dry else {"checkpoint": "random", "image_size": 512}
    tracker = builder.tracker(adapter=adapter, **options).train().to(bench.device)
    side = tracker.segmenter.spec.image_size
    frames = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    axis = torch.arange(side, device=bench.device) - side / 2
    disk = (axis[:, None] ** 2 + axis**2 < (side / 4) ** 2)[None, None].float()
    middle = torch.tensor([[0.0, side / 2, side / 2]], device=bench.device)
    click = {0: ObjectPrompt(middle, torch.ones(1, dtype=torch.long, device=bench.device))}
    frames = frames.to(bench.device)

    def loss(tracker: Tracker) -> Tensor:
        bank, parts = MemoryBank(), []
        for step in range(count):
            features = tracker.encode(frames[step : step + 1])
            found, bank = tracker.step(features, click if step == 0 else None, bank)
            parts.append(DiceBCE()(upsample(found.raw.float(), (side, side)), disk))
        return torch.stack(parts).mean()

    what = f"DD-SAM2, {count} frames @{side}"
    yield from _steps(bench, "TR3", "TR4", what, tracker, loss, 1)


def _steps(
    bench: Bench,
    time_row: str,
    memory_row: str,
    what: str,
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    count: int,
) -> Iterator[Row]:
    """Forward and backward of one sample; the loss is what is compared."""

    def step(is_low: bool) -> Tensor:
        torch.manual_seed(0)  # of dropout
        low = torch.autocast(bench.device.type, torch.bfloat16)
        with torch.enable_grad(), low if is_low else contextlib.nullcontext():
            value = loss(model)
        trained = [one for one in model.parameters() if one.requires_grad]
        grads = torch.autograd.grad(value, trained, allow_unused=True)
        if not all(torch.isfinite(one).all() for one in grads if one is not None):
            raise FloatingPointError("a gradient is not finite")
        return value.detach()

    is_low = bench.dtype != torch.float32
    calls: dict[str, Call] = {
        "segkit": lambda _: step(is_low), "segkit float32": lambda _: step(False)
    }  # fmt: skip
    targets = {"TR1": ">= 6x authors", "TR3": ">= 3x authors"}
    race = Race(time_row, what, calls, step(False), targets[time_row], count, "samples/s",
                absent=ABSENT)  # fmt: skip
    yield from run(race, bench)
    limits = {"TR2": "<= 0.2x authors", "TR4": "<= 0.5x authors"}
    for name, call in calls.items():
        yield {
            "row": memory_row, "what": f"{what}, peak over weights", "contender": name,
            "peak MiB": bench.peak_mib(partial(call, 0)),
            "target": limits[memory_row] if name == "segkit" else None,
        }  # fmt: skip


def all_rows(bench: Bench, only: str = "") -> Iterator[Row]:
    """The rows of this page whose name starts with `only`."""
    for rows, make in (("TR1 TR2", volume), ("TR3 TR4", clip)):
        if any(row.startswith(only) for row in rows.split()):
            yield from make(bench)
