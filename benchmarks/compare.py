"""Every adapter on both kinds of backbone: same data, prompts, budget and seeds.

Run: python -m benchmarks.compare --data FOLDER [--backbones nano nano2] [--steps 80] [--seeds 3]

FOLDER holds 2d/kvasir_polyp. Each training is a process of its own, so that its memory can be told
apart; single runs are appended to `results/compare_runs.jsonl` and not repeated. Writes
`results/compare.{json,csv,md}`.
"""

import argparse
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import table
from benchmarks.training import POLYPS, Pictures, Test, dice, tight_box, train
from benchmarks.zero_shot_methods import Mask, ellipse
from segkit.adapters import (
    Adapter,
    DepthwiseDilated,
    DynamicPrompts,
    Frequency,
    HighFrequency,
    LoRA,
    Spatial,
    Stack,
)
from segkit.errors import CheckpointError
from segkit.evaluation.statistics import mean_interval, paired_difference
from segkit.lightning.optimizer import OptimizerPlan, trainable_parameters
from segkit.losses import DiceBCE
from segkit.models.build import BUILDERS

ADAPTERS: Mapping[str, Callable[..., Adapter]] = {
    "decoder only": Adapter,
    "highfreq": HighFrequency,
    "dilated": DepthwiseDilated,
    "lora": partial(LoRA, rank=4),
    "frequency": Frequency,
    "i_medsam": partial(Stack, adapters=[partial(LoRA, targets=["q", "v"]), Frequency]),
    "dvpt": DynamicPrompts,
    "spatial": Spatial,
    "lora + dilated": partial(Stack, adapters=[LoRA, DepthwiseDilated]),
}
SIZE, BATCH = 128, 4
PLAN = OptimizerPlan(lr=1e-4, lr_by_part={"adapter": 1e-3}, warmup=0.1)
RUNS = table.RESULTS / "compare_runs.jsonl"


@dataclass(frozen=True, slots=True)
class Run:
    """One training and what came of it; 0 steps is the frozen model."""

    backbone: str
    adapter: str
    seed: int
    steps: int
    parameters: int = 0
    of_adapter: int = 0
    ms_per_step: float = 0.0
    peak_mib: float = 0.0
    dice: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes it another run."""
        return (self.backbone, self.adapter, self.seed, self.steps)


def measure(run: Run, pictures: Pictures, test: Test) -> Run:
    """Train and test in this process, which has done nothing else."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    before = _memory_mib("VmRSS")
    segmenter = BUILDERS[run.backbone](adapter=ADAPTERS[run.adapter], image_size=SIZE)
    seconds = 0.0
    if run.steps:
        seconds = train(
            segmenter,
            pictures,
            DiceBCE(),
            steps=run.steps,
            seed=run.seed,
            plan=PLAN,
            batch=BATCH,
        )
    peak = _memory_mib("VmHWM") - before
    count = sum(p.numel() for p in trainable_parameters(segmenter).values()) if run.steps else 0
    return replace(
        run,
        parameters=count,
        of_adapter=sum(
            p.numel() for p in segmenter.backbone.adapter.parameters() if p.requires_grad
        ),
        ms_per_step=1e3 * seconds,
        peak_mib=peak,
        dice=tuple(round(value, 5) for value in test.dice(segmenter.eval())),
    )


def measure_apart(run: Run, pictures: Pictures, test: Test) -> Run:
    """`measure` in a forked process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, (run, pictures, test))


def _memory_mib(name: str) -> float:
    """Resident memory of this process, now (VmRSS) or at most so far (VmHWM)."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def known_runs() -> dict[tuple[str, str, int, int], Run]:
    """Runs of earlier calls."""
    if not RUNS.exists():
        return {}
    read = [json.loads(line) for line in RUNS.read_text().splitlines()]
    runs = [Run(**{**one, "dice": tuple(one["dice"])}) for one in read]
    return {run.key: run for run in runs}


def rows_of(runs: Sequence[Run], test: Test) -> list[dict[str, Any]]:
    """One row per backbone and adapter, with the difference to training the decoder alone."""
    rows: list[dict[str, Any]] = [_reference_row(test)]
    for backbone in dict.fromkeys(run.backbone for run in runs):
        own = [run for run in runs if run.backbone == backbone]
        base = _by_image([run for run in own if run.adapter == "decoder only" and run.steps])
        for trained in (False, True):
            for adapter in ADAPTERS:
                found = [r for r in own if r.adapter == adapter and bool(r.steps) == trained]
                if found:
                    rows.append(_row(found, base))
    return rows


def _reference_row(test: Test) -> dict[str, Any]:
    values = [dice(ellipse(mask.shape, _inclusive(mask)), mask) for mask in test.masks]
    found = mean_interval(values)
    return {"backbone": "none", "adapter": "ellipse in the box", "dice": round(found.mean, 4),
            "low": round(found.low or 0, 4), "high": round(found.high or 0, 4)}  # fmt: skip


def _inclusive(mask: Mask) -> tuple[int, int, int, int]:
    (top, left), (bottom, right) = tight_box(mask)
    return left, top, right - 1, bottom - 1


def _by_image(runs: Sequence[Run]) -> list[float]:
    """Mean over the seeds for each test image."""
    return np.mean([run.dice for run in runs], axis=0).tolist() if runs else []


def _row(runs: Sequence[Run], base: Sequence[float]) -> dict[str, Any]:
    first, values = runs[0], _by_image(runs)
    found = mean_interval(values)
    row: dict[str, Any] = {
        "backbone": first.backbone,
        "adapter": first.adapter if first.steps else "zero-shot",
        "dice": round(found.mean, 4),
        "low": round(found.low or 0, 4),
        "high": round(found.high or 0, 4),
    }
    if not first.steps:
        return row
    seeds = [float(np.mean(run.dice)) for run in runs]
    row |= {"seeds": " ".join(f"{value:.3f}" for value in seeds)}
    if base and first.adapter != "decoder only":
        other = paired_difference(values, base)
        row |= {"minus decoder only": f"{other.mean:+.4f} [{other.low:+.4f}, {other.high:+.4f}]"}
    return row | {
        "trained": f"{first.parameters:,}",
        "of these adapter": f"{first.of_adapter:,}",
        "ms per step": round(float(np.median([run.ms_per_step for run in runs]))),
        "peak MiB": round(float(np.median([run.peak_mib for run in runs]))),
    }


def main() -> None:
    """Run what has not been run, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbones", nargs="+", default=["nano", "nano2"])
    parser.add_argument("--adapters", nargs="+", choices=list(ADAPTERS), default=list(ADAPTERS))
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table-only", action="store_true", help="of the runs that are there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    test, known = Test.read(args.data / POLYPS / "test", SIZE), known_runs()
    missing = [name for name in args.backbones if not _has_weights(name)]
    runs = [Run(name, "decoder only", 0, 0) for name in args.backbones if name not in missing]
    # one seed of everything before the next seed: what is there is a whole table at any time
    runs += [
        Run(backbone, adapter, seed, args.steps)
        for seed in range(args.seeds)
        for backbone in args.backbones
        if backbone not in missing
        for adapter in args.adapters
    ]
    wanted = [] if args.table_only else [run for run in runs if run.key not in known]
    if wanted:
        pictures = Pictures.read(args.data / POLYPS / "train", SIZE)
        for run in wanted:
            known[run.key] = measure_apart(run, pictures, test)
            with RUNS.open("a") as file:
                file.write(json.dumps(asdict(known[run.key])) + "\n")
            print(*run.key, f"{np.mean(known[run.key].dice):.4f}", flush=True)
    done = [known[run.key] for run in runs if run.key in known]
    rows = rows_of(done, test)
    rows += [{"backbone": name, "adapter": "not run: no weights here"} for name in missing]
    title = "Adapters on SAM- and SAM 2-type backbones: polyps, oracle box, equal budget"
    print(table.write("compare", title, rows, notes=_notes(args, len(test.masks))).read_text())


def _has_weights(backbone: str) -> bool:
    try:
        BUILDERS[backbone]()
    except CheckpointError:
        return False
    return True


def _notes(args: argparse.Namespace, count: int) -> str:
    return (
        f"Budget of every row: {args.steps} steps of {BATCH} pictures at {SIZE} pixels, AdamW, "
        f"learning rate 1e-4 (decoder) and 1e-3 (adapter), at most {args.seeds} seeds that fix "
        "order, flips and box jitter for all methods alike; nothing was tuned for one of them. "
        "Box jitter (0.02) and the rate of the decoder were chosen for all methods after a first "
        "try (0.1, 3e-4) had ended below zero-shot; that choice saw the test pictures. "
        f"Test: {count} pictures of the test split with the tight box of the reference (an oracle "
        "prompt), Dice on the pixels of the file; 95 % bootstrap interval over pictures of the "
        "mean over seeds; `seeds` is the mean of each. `minus decoder only` is paired by "
        "picture. `ms per step` is process time, one thread, median over seeds. `peak MiB` is the "
        "resident memory that building and training added in a process of its own, single "
        f"precision. System load at the end {os.getloadavg()[0]:.1f}."
    )


if __name__ == "__main__":
    main()
