"""Rows VD1 to VD3: frames per second of the SAM 2.1 B+ tracker at 1024, with a full memory.

The official predictor runs beside it where the package `sam2` is installed, on the same weights;
it holds one object at a time, ours all of them in one batch. VD4 and VD5 do not depend on the
device (`benchmarks.bench_video`), VD6 is `tools.parity.sam2_video`.
"""

import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import Row
from benchmarks.gpu_encoders import SAM2
from benchmarks.gpu_race import Bench, Call, Race, run
from segkit.memory import MemoryBank
from segkit.models import build
from segkit.models.build_sam2 import SAM2_BUILDERS
from segkit.models.tracker import ObjectPrompt, Tracker

OBJECTS = {"VD1": (1, ">= 250 frames/s, >= 2x official"), "VD2": (4, ">= 2.5x official"),
           "VD3": (10, ">= 4x official")}  # fmt: skip
OFFICIAL = "official float32"
WARM = 8
"""Frames after which the memory is as full as it gets."""


def video(bench: Bench, row: str) -> Iterator[Row]:
    """One frame after the memory is full: encode, attend, decode, remember."""
    objects, target = OBJECTS[row]
    tracker, official = pair(bench, "sam2_base_plus")
    side = tracker.segmenter.spec.image_size
    frames = _frames(bench, side)
    places = [((0.2 + 0.06 * n) * side, 0.5 * side) for n in range(objects)]
    full = replace(bench, dtype=torch.float32)
    calls: dict[str, Call] = {
        "segkit": _next(bench, tracker, frames, places),
        "segkit float32": _next(full, tracker, frames, places),
    }
    absent = {OFFICIAL: "the package sam2 is not installed"}
    if official is not None:
        calls[OFFICIAL], absent = _official_next(official, frames, places), {}
    want = _next(full, tracker, frames, places)(0)
    race = Race(row, f"video, {objects} objects @{side}", calls, want, target, unit="frames/s",
                limit=5 * bench.limit, absent=absent)  # fmt: skip
    yield from run(race, bench)


@torch.inference_mode()
def all_rows(bench: Bench, only: str = "") -> Iterator[Row]:
    """The rows of this page whose name starts with `only`."""
    for row in OBJECTS:
        if row.startswith(only):
            yield from video(bench, row)


def _next(
    bench: Bench, tracker: Tracker, frames: list[Tensor], places: list[tuple[float, float]]
) -> Call:
    """Track into a full memory; each call takes the next frame."""
    device = frames[0].device
    marks: Any = {
        number: ObjectPrompt(
            torch.tensor([[0.0, y, x]], device=device), torch.ones(1, dtype=torch.long).to(device)
        )
        for number, (x, y) in enumerate(places)
    }
    bank = MemoryBank()

    def call(_: int) -> Tensor:
        nonlocal bank
        with bench.low():
            features = tracker.encode(frames[bank.frame % len(frames)])
            found, bank = tracker.step(features, None if bank.ids else marks, bank)
        return found.logits

    for step in range(WARM):
        call(step)

    return call


def pair(bench: Bench, name: str) -> tuple[Tracker, Any]:
    """Our tracker, and the official predictor with the same weights where its package is."""
    if bench.is_dry or importlib.util.find_spec("sam2") is None:
        builder = build.sam2_test if bench.is_dry else SAM2_BUILDERS[name]
        tracker = builder.tracker(checkpoint=None if bench.is_dry else "random")
        return tracker.eval().to(bench.device), None
    from sam2.build_sam import build_sam2_video_predictor

    from tools.parity.sam2_video import prepared

    torch.manual_seed(0)
    official = prepared(build_sam2_video_predictor(SAM2[name], None, device=str(bench.device)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sam2.pt"
        torch.save({"model": official.state_dict()}, path)
        tracker = SAM2_BUILDERS[name].tracker(checkpoint=path).eval()
    return tracker.to(bench.device), official


def _official_next(predictor: Any, frames: list[Tensor], places: list[tuple[float, float]]) -> Call:
    from tools.parity.sam2_video import _pictures

    pictures = torch.cat([frames[step % len(frames)].cpu() for step in range(64)])
    with _pictures(pictures):
        state = predictor.init_state("")
    for number, place in enumerate(places):
        predictor.add_new_points_or_box(state, 0, number, points=[place], labels=[1])
    passed = predictor.propagate_in_video(state)
    for _ in range(WARM):
        next(passed)
    at = WARM

    def call(_: int) -> Tensor:
        nonlocal at
        next(passed)
        outputs = state["output_dict_per_obj"].values()
        found = [one["non_cond_frame_outputs"][at]["pred_masks"] for one in outputs]
        at += 1
        return torch.cat(found)

    return call


def _frames(bench: Bench, side: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, side, side, generator=generator).to(bench.device) for _ in range(4)]
