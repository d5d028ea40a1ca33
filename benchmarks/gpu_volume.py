"""Rows VL1 and VL2: a CT volume as video, 512 x 512 x 200, SAM 2.1 T and B+, time and peak memory.

One call is the whole volume: slices to the device, encoded eight at a time, then a click on the
first slice followed through all of them. The official predictor, where the package `sam2` is
installed, runs its own loop on the same weights and slices: all of them to the device as floats
(its default), one slice after the other. Slices are given at the size of the model; neither reads
files nor resizes within its time.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import Row
from benchmarks.gpu_race import Bench, Call, Race, run
from benchmarks.gpu_video import OFFICIAL, pair
from segkit.memory import MemoryBank
from segkit.models.tracker import ObjectPrompt, Tracker

NAMES = ("sam2_tiny", "sam2_base_plus")
SLICES, BATCH = 200, 8
ROUNDS = 2
"""A call lasts seconds: few are enough."""
CHECKED = 8
"""First slices that are compared in bf16: with random weights later ones may drift apart."""


def volume(bench: Bench, name: str) -> Iterator[Row]:
    """VL1 and VL2 of one size."""
    tracker, official = pair(bench, name)
    side = tracker.segmenter.spec.image_size
    count = 6 if bench.is_dry else SLICES
    generator = torch.Generator().manual_seed(0)
    slices = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    checked = count if bench.dtype == torch.float32 else CHECKED
    full = replace(bench, dtype=torch.float32)
    want = _ours(full, tracker, slices, 1)(0)[:checked]
    calls: dict[str, Call] = {"segkit": _ours(bench, tracker, slices, BATCH)}
    absent = {OFFICIAL: "the package sam2 is not installed"}
    if official is not None:
        calls[OFFICIAL], absent = partial(_official, official, slices, bench.device), {}
    what = f"{name}, {count} slices @{side}"
    race = Race(
        "VL1", what, {key: _first(call, checked) for key, call in calls.items()}, want,
        ">= 5x official", count, "slices/s", 5 * bench.limit, absent, warm=1,
    )  # fmt: skip
    yield from run(race, replace(bench, rounds=ROUNDS))
    peaks = {key: bench.peak_mib(partial(call, 0)) for key, call in calls.items()}
    for key, peak in peaks.items():
        ours = peaks["segkit"]
        yield {
            "row": "VL2", "what": f"{what}, peak over weights", "contender": key,
            "peak MiB": peak, "target": "<= 0.35x official" if key == "segkit" else None,
            "peer / segkit": peak / ours if peak and ours and key != "segkit" else None,
        }  # fmt: skip


@torch.inference_mode()
def all_rows(bench: Bench, only: str = "") -> Iterator[Row]:
    """The rows of this page whose name starts with `only`."""
    for name in NAMES[:1] if bench.is_dry else NAMES:
        yield from (row for row in volume(bench, name) if str(row["row"]).startswith(only))


def _first(call: Call, count: int) -> Call:
    return lambda turn: call(turn)[:count]


def _ours(bench: Bench, tracker: Tracker, slices: Tensor, batch: int) -> Call:
    """Encode `batch` slices at a time and follow a click on the first through all of them."""
    place = torch.full((1, 3), slices.shape[-1] / 2, device=bench.device)
    click = {0: ObjectPrompt(place, torch.ones(1, dtype=torch.long, device=bench.device))}

    def call(_: int) -> Tensor:
        bank, masks = MemoryBank(), []
        for some in slices.split(batch):
            pixels = some.to(bench.device).float() / 255
            with bench.low():
                features = tracker.encode(pixels)
                for index in range(len(some)):
                    marks = None if bank.ids else click
                    found, bank = tracker.step(features[index : index + 1], marks, bank)
                    masks.append(found.logits[:, 0].float())
        return torch.cat(masks)

    return call


def _official(predictor: Any, slices: Tensor, device: torch.device, _: int) -> Tensor:
    from tools.parity.sam2_video import _pictures

    with _pictures(slices.float() / 255):
        state = predictor.init_state("")
    state["images"] = state["images"].to(device)
    place = (slices.shape[-1] / 2, slices.shape[-1] / 2)
    predictor.add_new_points_or_box(state, 0, 0, points=[place], labels=[1])
    for _index, _ids, _masks in predictor.propagate_in_video(state):
        pass
    (outputs,) = state["output_dict_per_obj"].values()
    found = {**outputs["cond_frame_outputs"], **outputs["non_cond_frame_outputs"]}
    return torch.cat([found[index]["pred_masks"][0] for index in range(len(slices))])
