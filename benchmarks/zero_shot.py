"""`nano` on data it never saw, against trivial methods with the same prompts.

`python -m benchmarks.zero_shot --data PATH [--sets polyps cine] [--limit 30]`

Clicks are simulated the same way for every method, each on its own mask: the first at the deepest
pixel of the object, each next one at the deepest pixel of the largest wrong region. Boxes are taken
from the reference: they are oracle prompts, tighter than a person draws. Writes
`results/zero_shot.{json,csv,md}`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import edt
import numpy as np
import torch

import segkit.torchvision_compat  # noqa: F401
from benchmarks import table
from benchmarks import zero_shot_methods as methods
from benchmarks.zero_shot_data import SETS, Item
from segkit.backbones.checkpoints import file_sha256, load_sam
from segkit.backbones.sam_modules import NANO, SamModules
from segkit.evaluation.statistics import mean_interval
from segkit.models.build import nano
from segkit.predictors.image import ImagePredictor

WEIGHTS = Path(__file__).parents[1] / "segkit" / "weights" / "nano.safetensors"
CLICKS = (1, 3, 5)
Score = tuple[str, str, float]  # method, prompt, Dice


def dice(guess: methods.Mask, truth: methods.Mask) -> float:
    """Dice; the truth is never empty here."""
    return 2.0 * float((guess & truth).sum()) / float(guess.sum() + truth.sum())


def deepest(mask: methods.Mask) -> tuple[int, int]:
    """Row and column of the pixel farthest from the border of the mask."""
    depth = edt.edt(np.ascontiguousarray(mask, np.uint8), black_border=True, parallel=1)
    row, col = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(row), int(col)


def largest_error(guess: methods.Mask, truth: methods.Mask) -> methods.Mask:
    """The largest connected region that is missing or surplus; the object where nothing is."""
    best, most = truth, 0
    for wrong in (truth & ~guess, guess & ~truth):
        _, labels, facts, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8))
        if len(facts) > 1:
            value = int(facts[1:, cv2.CC_STAT_AREA].argmax()) + 1
            if facts[value, cv2.CC_STAT_AREA] > most:
                best, most = labels == value, int(facts[value, cv2.CC_STAT_AREA])
    return best


def click_scores(
    name: str, truth: methods.Mask, predict: Callable[..., methods.Mask]
) -> Iterator[Score]:
    """Dice after 1, 3 and 5 clicks."""
    points, labels = np.zeros((0, 2), np.float32), []
    region = truth
    for count in range(1, max(CLICKS) + 1):
        row, col = deepest(region)
        points = np.concatenate([points, np.array([[col, row]], np.float32)])
        labels.append(int(truth[row, col]))
        guess = predict(points, labels)
        if count in CLICKS:
            yield name, f"{count} click{'s' * (count > 1)}", dice(guess, truth)
        region = largest_error(guess, truth)


def item_scores(item: Item, modules: SamModules, predictor: ImagePredictor) -> Iterator[Score]:
    """Dice of every method and prompt on one object."""
    truth = item.mask
    rows, cols = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    box = (int(cols[0]), int(rows[0]), int(cols[-1]), int(rows[-1]))
    nano = methods.Nano(modules, item.image)
    yield "nano", "box (oracle)", dice(nano.box(*box), truth)
    closer = methods.Zoomed(predictor, item.image).box(*box)
    yield "nano, zoomed", "box (oracle)", dice(closer, truth)
    yield from click_scores("nano", truth, nano.click)
    yield from click_scores("nano, zoomed", truth, methods.Zoomed(predictor, item.image).click)
    oracle = max(dice(mask, truth) for mask in nano.facts["oracle"])
    yield "nano, best of three masks by the reference", "1 click", oracle
    yield "nano, single mask", "1 click", dice(nano.facts["single"][0], truth)
    yield "ellipse", "box (oracle)", dice(methods.ellipse(truth.shape, box), truth)
    yield from baseline_scores(item, box)


def baseline_scores(item: Item, box: methods.Box) -> Iterator[Score]:
    """Dice of the intensity methods, computed on a reduced copy, scored at full size."""
    truth, height, width = item.mask, *item.mask.shape
    scale = min(methods.WORK / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    image = cv2.resize(item.image, size, interpolation=cv2.INTER_AREA)
    grey = image.astype(np.float32).mean(2) / 255
    limits = np.array([size[0] - 1, size[1] - 1] * 2)
    x0, y0, x1, y1 = np.clip(np.round(np.array(box) * scale), 0, limits).astype(int).tolist()
    small = (x0, y0, x1, y1)

    def full(mask: methods.Mask) -> methods.Mask:
        large = cv2.resize(mask.astype(np.float32), (width, height))
        return large > 0.5

    def clicker(method: Callable[..., methods.Mask]) -> Callable[..., methods.Mask]:
        return lambda points, labels: full(
            method(grey, np.clip((points + 0.5) * scale - 0.5, 0, limits[:2]), labels)
        )

    yield from click_scores("random walker", truth, clicker(methods.walker_click))
    yield from click_scores("region growing", truth, clicker(methods.grow))
    centre = np.array([[(x0 + x1) / 2, (y0 + y1) / 2]], np.float32)
    inside = np.zeros(grey.shape, bool)
    inside[y0 : y1 + 1, x0 : x1 + 1] = True
    yield "Otsu", "box (oracle)", dice(full(methods.otsu_box(grey, small)), truth)
    yield "GrabCut", "box (oracle)", dice(full(methods.grabcut_box(image, small)), truth)
    yield "random walker", "box (oracle)", dice(full(methods.walker_box(grey, small)), truth)
    grown = methods.grow(grey, centre, [1]) & inside
    yield "region growing", "box (oracle)", dice(full(grown), truth)


def rows_of(
    name: str, items: list[Item], modules: SamModules, predictor: ImagePredictor
) -> list[dict[str, object]]:
    """Mean Dice with interval of each method and prompt on one set."""
    scores: dict[tuple[str, str], list[float]] = {}
    for item in items:
        for method, prompt, value in item_scores(item, modules, predictor):
            scores.setdefault((prompt, method), []).append(value)
    subjects = [item.subject for item in items]
    rows: list[dict[str, object]] = []
    for (prompt, method), values in sorted(scores.items()):
        found = mean_interval(values, subjects)
        rows.append({
            "set": name, "prompt": prompt, "method": method, "dice": round(found.mean, 4),
            "low": None if found.low is None else round(found.low, 4),
            "high": None if found.high is None else round(found.high, 4),
            "objects": len(items), "subjects": len(set(subjects)),
        })  # fmt: skip
    return rows


def main() -> None:
    """Parse the command line, score every set and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero_shot", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with 2d/, 3d/, video/")
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--limit", type=int, default=30, help="images (volumes) of each set")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--name", default="zero_shot", help="name of the result files")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    modules = SamModules(NANO).eval().requires_grad_(False)
    load_sam(modules, args.weights)
    predictor = ImagePredictor(nano(checkpoint=args.weights))
    rows: list[dict[str, object]] = []
    for name in args.sets:
        start = time.monotonic()
        rows += rows_of(name, list(SETS[name](args.data, args.limit)), modules, predictor)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    notes = (
        f"Mean Dice on test images with a 95 % bootstrap interval over subjects; at most "
        f"{args.limit} images of each set, chosen with a fixed seed (nuclei: two objects an image; "
        "hippocampus: one axial slice and one part of each volume). `box (oracle)`: the tight box "
        "of the reference, an oracle prompt. Clicks are simulated on each method's own errors. "
        f"Intensity methods work at {methods.WORK} pixels. "
        f"Weights sha256 {file_sha256(args.weights)}."
    )
    print(table.write(args.name, "Zero-shot segmentation with nano", rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
