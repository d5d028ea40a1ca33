"""Learning from what was just corrected: a real server, real volumes, Dice on other cases.

Four volumes are accepted with the labels of the data set, as a person would after correcting them;
the server learns with its defaults. Before and after, boxes are drawn on slices of volumes that it
has not seen.

Run: python -m benchmarks.bench_serve_learn --data Task04_Hippocampus
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import table
from benchmarks.bench_serve import served
from segkit.client import RemotePredictor
from segkit.data.readers import load
from segkit.data.volume import Volume
from segkit.models.sources import package_file

Case = tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.float64]]
CORRECTED, OTHERS, SLICES, TRIALS = 4, 8, 5, 3


def cases(data: Path) -> list[Case]:
    """Voxels, object and affine of as many cases as all trials need."""
    found = []
    for path in sorted((data / "labelsTr").glob("[!.]*.nii.gz"))[: TRIALS * CORRECTED + OTHERS]:
        image, labels = load(data / "imagesTr" / path.name), load(path)
        assert isinstance(image, Volume)
        assert isinstance(labels, Volume)
        found.append((image.array, labels.array > 0, image.geometry.affine))
    return found


def measured(remote: RemotePredictor, model: str, others: Sequence[Case]) -> NDArray[np.float64]:
    """Dice of each volume over its marked slices, one tight box on each."""
    scores = []
    for voxels, truth, affine in others:
        image = remote.upload(voxels, affine=affine)
        session = remote.open(image, model=model)
        session.runs_at_once = False
        marked = np.flatnonzero(truth.any(axis=(1, 2)))
        chosen = marked[np.linspace(0, len(marked) - 1, SLICES + 2).round().astype(int)[1:-1]]
        for k in map(int, chosen):
            rows, columns = np.nonzero(truth[k])
            first, last = (k, rows.min(), columns.min()), (k + 1, rows.max() + 1, columns.max() + 1)
            session.add_box((first, last))
        found, wanted = session.update().mask()[chosen], truth[chosen]
        scores.append(2 * (found & wanted).sum() / max(1, found.sum() + wanted.sum()))
        remote.drop(image)
    return np.array(scores)


def main() -> None:
    """Learn in three trials and write `results/serve_learn.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    found = cases(args.data)
    others, rows = found[:OTHERS], []
    with served() as (url, _), RemotePredictor(url) as remote:
        before = measured(remote, "nano@0", others)
    for trial in range(TRIALS):
        begin = OTHERS + trial * CORRECTED
        # a server of its own: each trial begins with the model as it was shipped
        with served() as (url, _), RemotePredictor(url) as remote:
            for voxels, truth, affine in found[begin : begin + CORRECTED]:
                remote.open(voxels, affine=affine).accept(truth)
            start = time.perf_counter()
            outcome = remote.learn("nano")
            seconds = time.perf_counter() - start
            after = measured(remote, "nano@1", others)
            start = time.perf_counter()
            remote.choose("nano", 0)
            back = time.perf_counter() - start
        gain = after - before
        rows.append(
            {
                "trial": trial + 1,
                "slices learned from": outcome["slices"],
                "steps": outcome["steps"],
                "seconds": seconds,
                "goal s": 60,
                "held-out slices, before": outcome["before"],
                "held-out slices, after": outcome["after"],
                "taken over": "yes" if outcome["has_helped"] else "no",
                "other cases, before": float(before.mean()),
                "other cases, after": float(after.mean()),
                "gain": float(gain.mean()),
                "cases better": f"{int((gain > 0).sum())} of {len(gain)}",
                "roll back s": back,
            }
        )
    notes = (
        f"Dice. Hippocampus (both parts as one object), {CORRECTED} volumes accepted per trial, "
        f"{OTHERS} other volumes measured with one tight box on each of {SLICES} slices. The "
        "recipe is the default of `RemotePredictor.learn`. Weights of nano: sha256 "
        f"{package_file('nano')[1][:12]}."
    )
    title = "Learning from corrections, segkit serve -m nano, 2-core x86-64 CPU"
    print(table.write("serve_learn", title, rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
