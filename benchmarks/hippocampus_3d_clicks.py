"""Clicks in volumes: adapted volumetric nano, and nano slice by slice with propagation.

Run: python -m benchmarks.hippocampus_3d_clicks --data Task04_Hippocampus [--minutes 6]

Trains `experiment=hippocampus_3d_click` on one thread, then clicks on the test split through the
sessions a person would use: the first click lies deepest in the object, each later one deepest in
the largest error of the mask so far (an oracle). Results: results/hippocampus_3d_clicks.*.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap

from benchmarks import table
from benchmarks.hippocampus_3d import Study, train
from segkit.data.labels import read_labels
from segkit.data.readers import load
from segkit.predictors import VolumePredictor
from segkit.predictors.session import Session
from segkit.prompts.simulate import first_click, next_click
from segkit.typing import Prompts

CLICKS = (1, 3, 5)
Update = Callable[[Session], object]


def main() -> None:
    """Train, click and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/hippocampus_3d"))
    parser.add_argument("--minutes", type=float, default=6.0, help="of training")
    parser.add_argument("--volumes", type=int, default=30, help="of the test split, evenly chosen")
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = args.runs / "hippocampus_3d_click"
    if not (run / "adapter.safetensors").exists():
        train(Study("clicks", "hippocampus_3d_click"), args.data, run, args.minutes)
    models: dict[str, tuple[VolumePredictor, Update]] = {
        "sam3d_nano + Spatial": (VolumePredictor.from_pretrained(run, device="cpu"), Session.mask),
        "nano zero-shot, propagated": (
            VolumePredictor.from_pretrained("nano", device="cpu"),
            lambda session: session.propagate(hints=("box", "mask")),
        ),
    }
    files = sorted((args.data / "imagesTs").glob("*.nii.gz"))
    files = files[:: max(len(files) // args.volumes, 1)][: args.volumes]
    rows = []
    for name, (predictor, update) in models.items():
        dice = np.array([click(predictor, update, path, args.data) for path in files])
        for column, count in enumerate(CLICKS):
            rows.append(
                {"model": name, "clicks": count, **summary(dice[:, :, column].mean(axis=1))}
            )
    notes = (
        f"{len(files)} test volumes, both parts of the hippocampus are objects of their own; "
        "mean over volumes of the mean over parts, 95 % bootstrap interval over volumes. "
        f"Training: {args.minutes:g} minutes of one thread."
    )
    print(table.write("hippocampus_3d_clicks", "Clicks in volumes", rows, notes=notes).read_text())


def click(predictor: VolumePredictor, update: Update, path: Path, data: Path) -> list[list[float]]:
    """Dice of each part after each number of clicks of `CLICKS`."""
    volume = load(path)
    labels = read_labels(data / "labelsTs" / path.name, volume)
    found = []
    for value in (1, 2):
        wanted = torch.from_numpy(labels == value)[None]
        session, random = predictor.open(volume), torch.Generator().manual_seed(0)
        prompts, scores = first_click(wanted, random, place="deepest"), {}
        for count in range(1, max(CLICKS) + 1):
            add(session, prompts)
            update(session)
            mask = torch.from_numpy(session.mask())[None]
            scores[count] = float(2 * (mask & wanted).sum() / (mask.sum() + wanted.sum()))
            prompts = next_click(mask, wanted, random)
        found.append([scores[count] for count in CLICKS])
    return found


def add(session: Session, prompts: Prompts) -> None:
    """Hand a simulated click to a session."""
    point = tuple(int(value) for value in prompts.points[0, 0].round())
    session.add_points([point], [int(prompts.labels[0, 0])])


def summary(values: np.ndarray) -> dict[str, object]:
    """Mean over volumes with its interval."""
    interval = bootstrap((values,), np.mean, n_resamples=2000, rng=0).confidence_interval
    return {
        "Dice": round(float(values.mean()), 4),
        "95 % interval": f"{interval.low:.3f} to {interval.high:.3f}",
        "volumes": len(values),
    }


if __name__ == "__main__":
    main()
