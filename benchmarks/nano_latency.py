"""What `nano` takes to encode a picture and to answer clicks, on one and on two cores.

Run: python -m benchmarks.nano_latency, on a machine that does nothing else

The picture is of the native size, 256 pixels; a click is a call of `ImagePredictor.predict`, which
ends with masks of the size of the picture. Writes `results/nano_latency.{json,csv,md}`.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import table
from benchmarks.timing import contest
from segkit.backbones.sam_modules import NANO
from segkit.models.build import nano
from segkit.predictors.image import ImagePredictor

FIRST = np.array([[100.0, 90.0]])
FURTHER = np.array([[100.0, 90.0], [150.0, 120.0], [60.0, 70.0]])
BOX = np.array([60.0, 50.0, 160.0, 140.0])


def calls(predictor: ImagePredictor) -> dict[str, Callable[[], object]]:
    """What is timed; everything after the first call asks about an image that is encoded."""
    image = np.random.default_rng(0).integers(0, 256, (NANO.image_size,) * 2 + (3,), np.uint8)
    one, three = np.array([1]), np.array([1, 0, 1])

    def start() -> object:
        predictor.set_image(image.copy())
        return predictor.predict(FIRST, one)

    start()
    _, _, low = predictor.predict(FIRST, one)
    return {
        "encode and first click": start,
        "first click": lambda: predictor.predict(FIRST, one),
        "further click": lambda: predictor.predict(
            FURTHER, three, mask_input=low[:1], multimask_output=False
        ),
        "box": lambda: predictor.predict(box=BOX, multimask_output=False),
    }


def rows_of(predictor: ImagePredictor, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Wall time with quartiles and the least processor time of each call, called in turns."""
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name, found in contest(calls(predictor), rounds=rounds, seconds=20).items():
        low, middle, high = statistics.quantiles(found.wall_ms, n=4)
        rows.append({
            "threads": threads, "what": name, "ms": round(middle, 1), "low": round(low, 1),
            "high": round(high, 1), "least cpu ms": round(found.least_ms, 1),
            "runs": len(found.wall_ms),
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nano_latency", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    segmenter = nano().eval()
    predictor = ImagePredictor(segmenter, device="cpu", cache_bytes=0)
    rows = [row for threads in (1, 2) for row in rows_of(predictor, threads, args.rounds)]
    notes = (
        "Wall time in ms, median and quartiles; meaningful on an idle machine only, its load was "
        f"{os.getloadavg()[0]:.1f}. `least cpu ms` is the least processor time of all threads "
        "together, which other programs disturb little. Aim of the project on two cores: encode "
        "and first click 150 ms, further click 25 ms. Weights sha256 "
        f"{segmenter.recipe.backbone.sha256}."
    )
    title = "Latency of nano: ImagePredictor, a picture of 256 x 256"
    print(table.write("nano_latency", title, rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
