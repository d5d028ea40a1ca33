"""One box and its propagation against a box on every slice: `nano`, hippocampus, test split.

Run: python -m benchmarks.bench_propagation --data Task04_Hippocampus [--volumes 16]
Boxes are the tightest around the reference on a slice; a click is the voxel deepest inside. The
defaults of `Session.propagate` (box and click of the neighbour, the box wider by a tenth) were
chosen on two volumes of the training split; the earlier ones (box and mask, no margin) stand
beside them.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import table
from segkit.data.labels import read_labels
from segkit.data.readers import load
from segkit.models.sources import package_file
from segkit.predictors import VolumePredictor
from segkit.predictors.session import Session
from segkit.prompts.simulate import first_click

AXES = {"k": 0, "j": 1}
Box = tuple[tuple[int, ...], tuple[int, ...]]
Way = Callable[[Session, "Target"], None]


class Target:
    """Reference of one volume, by slices along an axis."""

    def __init__(self, reference: np.ndarray, axis: int) -> None:
        self.reference, self.axis = reference, axis
        stack = np.moveaxis(reference, axis, 0)
        self.slices = np.flatnonzero(stack.any(axis=(1, 2))).tolist()

    def box(self, index: int) -> Box:
        """Tightest box around the reference on a slice."""
        inside = np.argwhere(self.reference.take([index], axis=self.axis))
        first, last = inside.min(axis=0), inside.max(axis=0) + 1
        first[self.axis] += index
        last[self.axis] += index
        return tuple(first.tolist()), tuple(last.tolist())

    def click(self, index: int) -> tuple[int, ...]:
        """Voxel of a slice deepest inside the reference."""
        plane = torch.from_numpy(self.reference.take(index, axis=self.axis))[None]
        place = first_click(plane, torch.Generator(), place="deepest").points[0, 0, 1:]
        voxel = [int(value) for value in place]
        voxel.insert(self.axis, index)
        return tuple(voxel)

    def spread(self, count: int) -> Sequence[int]:
        """Slices in the middle of `count` equal parts."""
        return [self.slices[len(self.slices) * (2 * n + 1) // (2 * count)] for n in range(count)]


def every(session: Session, target: Target) -> None:
    """Box on every slice."""
    for index in target.slices:
        session.add_box(target.box(index))


def one(session: Session, target: Target, **how: Any) -> None:
    """One box, ends unknown."""
    session.add_box(target.box(target.spread(1)[0])).propagate(**how)


def one_click(session: Session, target: Target, **how: Any) -> None:
    """One click, ends unknown."""
    session.add_points([target.click(target.spread(1)[0])], [1]).propagate(**how)


def one_with_ends(session: Session, target: Target, **how: Any) -> None:
    """One box, first and last slice known."""
    session.add_box(target.box(target.spread(1)[0]))
    session.propagate(start=target.slices[0], stop=target.slices[-1] + 1, **how)


def four_with_ends(session: Session, target: Target) -> None:
    """Four boxes, first and last slice known."""
    for index in target.spread(4):
        session.add_box(target.box(index))
    session.propagate(start=target.slices[0], stop=target.slices[-1] + 1)


EARLIER: dict[str, Any] = {"hints": ("box", "mask"), "margin": 0.0}
WAYS: dict[str, Way] = {
    "box on every slice": every,
    "4 boxes, ends known": four_with_ends,
    "1 box, ends known": one_with_ends,
    "1 box, ends known, earlier": partial(one_with_ends, **EARLIER),
    "1 box": one,
    "1 box, earlier": partial(one, **EARLIER),
    "1 click": one_click,
    "1 click, earlier": partial(one_click, **EARLIER),
}


def nano_sha256() -> str:
    """Hash of the weights in the package."""
    return package_file("nano")[1]


def main() -> None:
    """Measure and write `results/propagation.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--volumes", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = VolumePredictor.from_pretrained("nano", device="cpu")
    files = sorted((args.data / "imagesTs").glob("*.nii.gz"))
    chosen = files[:: max(len(files) // args.volumes, 1)][: args.volumes]
    scores: dict[tuple[str, str], list[tuple[float, int, float, int]]] = {}
    for path in chosen:
        volume = load(path)
        reference = read_labels(args.data / "labelsTs" / path.name, volume) > 0
        for axis, number in AXES.items():
            session, target = predictor.open(volume, axis=number), Target(reference, number)
            for name, way in WAYS.items():
                session.reset()
                way(session, target)
                boxes = session.interactions - (name != "box on every slice")
                start = time.perf_counter()
                found = session.mask()
                seconds = time.perf_counter() - start
                dice = 2 * (found & reference).sum() / (found.sum() + reference.sum())
                extra = found.any(axis=(0, 1, 2)[:number] + (0, 1, 2)[number + 1 :]).sum()
                scores.setdefault((axis, name), []).append(
                    (float(dice), boxes, seconds, int(extra) - len(target.slices))
                )
    rows = []
    for (axis, name), values in scores.items():
        dice, boxes, seconds, extra = np.array(values, dtype=float).T
        rows.append(
            {
                "slices along": axis,
                "prompt": name,
                "marks": float(boxes.mean()),
                "Dice": float(dice.mean()),
                "median": float(np.median(dice)),
                "slices too many": float(extra.mean()),
                "seconds": float(seconds.mean()),
            }
        )
    notes = (
        f"{len(chosen)} volumes of the test split, both parts of the hippocampus as one object; "
        "means over volumes. Every axis is encoded once, in its first row: its seconds include "
        f"the encoder. Weights of nano: sha256 {nano_sha256()[:12]}."
    )
    title = "Slice propagation with nano, zero-shot, on the hippocampus"
    print(table.write("propagation", title, rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
