"""A folder of small volumes in one call against one call each; several models on one embedding.

Run: python -m benchmarks.bench_cohort [--cases 200] [--calls 6]

Generated volumes of 8 x 32 x 32 voxels, `nano` with class queries at 128 pixels, one thread. All
volumes go through one `segkit predict`; of the separate calls a sample is timed, each in a process
of its own, and their median stands for all. Then, in one process: two models one after the other
and together on one embedding (interleaved, minimum of the process time of five rounds), and what it
takes to hand out a loaded model. Writes `results/cohort.{json,csv,md}`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np

from benchmarks import table
from segkit.data.preprocess import InputSpec
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.predictors.shelf import Shelf

SHAPE, SIZE = (32, 32, 8), 128
ROUNDS, SWAPS = 5, 1000


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--calls", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = write_cases(folder / "cases", args.cases)
        models = [write_model(folder / f"{organ}.safetensors") for organ in ("liver", "spleen")]
        rows = [*throughput(folder, cases, models[0], args.calls), *shelf(cases[0], models)]
    notes = (
        f"Volumes of {SHAPE} voxels (i, j, k); one thread; the times of the first two rows are "
        "wall time. Separate calls: the median of the sample stands for all. Rows without cases "
        "are in one process, images encoded once where the models allow it."
    )
    print(table.write("cohort", "Cohorts and several models", rows, notes=notes).read_text())


def write_cases(folder: Path, count: int) -> list[Path]:
    """Noise with a bright ball, as NIfTI."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    away = np.indices(SHAPE) - (np.array(SHAPE).reshape(3, 1, 1, 1) - 1) / 2
    ball = np.square(away / np.array([8, 8, 3]).reshape(3, 1, 1, 1)).sum(axis=0) <= 1
    paths = []
    for number in range(count):
        array = (rng.normal(200, 40, SHAPE) + 300 * ball).astype(np.int16)
        paths.append(folder / f"case_{number:03}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), paths[-1])
    return paths


def write_model(path: Path) -> Path:
    """An adapter file with class queries on `nano`; what it segments does not matter here."""
    segmenter = build.nano(classes=2, image_size=SIZE, trainable="decoder")
    info = ModelInfo.of(segmenter, labels={1: "one", 2: "two"}, input=InputSpec(size=SIZE))
    save_adapter(path, segmenter, info)
    return path


def throughput(
    folder: Path, cases: Sequence[Path], model: Path, calls: int
) -> list[dict[str, object]]:
    """Cases per second of one call for all, and of one call each."""
    every = predict(cases[0].parent, model, folder / "together")
    report = json.loads((folder / "together" / "run_report.json").read_text())
    assert len(report["cases"]) == len(cases)
    assert report["failed"] == 0
    spent = sum(case["seconds"] for case in report["cases"])
    step = max(1, len(cases) // calls)
    single = [predict(case, model, folder / f"alone_{case.name}") for case in cases[::step][:calls]]
    alone = statistics.median(single)
    together = every / len(cases)
    return [
        {
            "row": "one call",
            "cases": len(cases),
            "seconds a case": together,
            "cases a second": 1 / together,
            "note": f"{every:.1f} s in all; stages overlap: {spent:.1f} s of work",
        },
        {
            "row": "separate calls",
            "cases": len(single),
            "seconds a case": alone,
            "cases a second": 1 / alone,
            "note": f"one call has {alone / together:.1f} times the throughput",
        },
    ]


def predict(source: Path, model: Path, out: Path) -> float:
    """Wall seconds of one `segkit predict` in a process of its own."""
    command = [sys.executable, "-m", "segkit.cli.main", "predict", source, "-m", model, "-o", out]
    if source.is_file():
        command[-1] = out.with_name(out.name.removesuffix(".nii.gz") + ".nii.gz")
    start = time.perf_counter()
    subprocess.run(
        [*map(str, command), "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def shelf(case: Path, models: Sequence[Path]) -> list[dict[str, object]]:
    """Two models on one case, and the time to hand out a loaded one."""
    both = Shelf.from_pretrained(models, device="cpu")
    names = list(both.predictors)
    ways: dict[str, Callable[[], object]] = {
        "two models, one after the other": lambda: [both.use(n).segment(case) for n in names],
        "two models, one embedding": lambda: both.segment(case),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - start)
    start = time.perf_counter()
    for number in range(SWAPS):
        both.use(names[number % 2])
    swap_ms = 1000 * (time.perf_counter() - start) / SWAPS
    first, second = best.values()
    return [
        *({"row": name, "seconds a case": seconds} for name, seconds in best.items()),
        {
            "row": "hand out a loaded model",
            "seconds a case": swap_ms / 1000,
            "note": f"{swap_ms:.4f} ms; together {second / first:.2f} of the time of two passes",
        },
    ]


if __name__ == "__main__":
    main()
