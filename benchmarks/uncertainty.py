"""Does uncertainty find errors, are probabilities right, and is the suggested click a good one?

Run: python -m benchmarks.uncertainty --data FOLDER [--limit 25] [--sets polyps heads]

`nano`, not adapted, on test pictures, prompted with the tight box of the reference or one click at
its deepest pixel (both oracles). Writes `results/uncertainty.{json,csv,md}` (sparsification,
calibration, predicted Dice) and `results/next_click.{json,csv,md}`.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks import table
from benchmarks.training import dice, tight_box
from benchmarks.zero_shot import deepest, largest_error
from benchmarks.zero_shot_data import SETS, Item
from segkit.data.volume import Picture
from segkit.evaluation.statistics import mean_interval, paired_difference
from segkit.metrics.calibration import Calibration, calibration, sparsification
from segkit.predictors import ImagePredictor, Session
from segkit.predictors.uncertainty import Ensemble, Sampling

Place = tuple[int, ...]
SAMPLING = Sampling()
RANDOM_DRAWS = 4
MARGIN = 0.2  # of the extent of the mask, around it, where random clicks fall
PREDICTED = ("expected Dice", "agreement", "IoU head")


def box(session: Session, item: Item) -> None:
    """The tight box of the reference."""
    session.add_box(tight_box(item.mask))


def click(session: Session, item: Item) -> None:
    """One click at the deepest pixel of the reference."""
    session.add_points([deepest(item.mask)], [1])


PROMPTS: dict[str, Callable[[Session, Item], None]] = {"box": box, "1 click": click}


class Study:
    """Figures of one set and one prompt, case by case."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self.values: dict[str, list[float]] = defaultdict(list)
        self.calibration: dict[str, Calibration] = {}

    def add(self, session: Session, item: Item, rng: np.random.Generator) -> None:
        """Measure one case."""
        mask, ensemble = session.mask(), session.ensemble(SAMPLING)
        with np.errstate(over="ignore"):
            single = 1 / (1 + np.exp(-session.logits()))
        self.subjects.append(item.subject)
        self.values["Dice"].append(dice(mask, item.mask))
        self._uncertainty("ensemble", ensemble.probability, ensemble.entropy, mask, item)
        self._uncertainty("one pass", single, session.uncertainty(), mask, item)
        iou = next(iter(session.scores().values()))
        found = (ensemble.dice, ensemble.agreement, 2 * iou / (1 + iou))
        for name, value in zip(PREDICTED, found, strict=True):
            self.values[name].append(value)
        for name, places in _places(ensemble, item, rng).items():
            after = [_dice_after(session, item, place) for place in places]
            self.values[f"click: {name}"].append(float(np.mean(after)))

    def _uncertainty(
        self, name: str, p: np.ndarray, entropy: np.ndarray, mask: np.ndarray, item: Item
    ) -> None:
        area = sparsification(entropy, (mask != item.mask).astype(float))
        self.values[f"{name}: AUSE"].append(area.ause)
        self.values[f"{name}: unranked"].append(area.unranked)
        one = calibration(np.clip(p, 0, 1), item.mask)
        self.values[f"{name}: ECE"].append(one.ece)
        known = self.calibration.get(name)
        self.calibration[name] = one if known is None else known + one


def _places(ensemble: Ensemble, item: Item, rng: np.random.Generator) -> dict[str, list[Place]]:
    """Where each strategy clicks next."""
    suggested = ensemble.next_click()
    surest = np.unravel_index(int(ensemble.entropy.argmax()), ensemble.entropy.shape)
    low, high = np.zeros(2), np.array(item.mask.shape, dtype=float)
    near = (low, high)
    if ensemble.mask.any():
        first, last = (np.array(corner, dtype=float) for corner in tight_box(ensemble.mask))
        margin = MARGIN * (last - first)
        near = (np.maximum(first - margin, low), np.minimum(last + margin, high))
    return {
        "suggested": [] if suggested is None else [suggested],
        "most uncertain pixel": [tuple(map(int, surest))],
        "random near the mask": [_draw(*near, rng) for _ in range(RANDOM_DRAWS)],
        "random in the picture": [_draw(low, high, rng) for _ in range(RANDOM_DRAWS)],
        "largest error (oracle)": [deepest(largest_error(ensemble.mask, item.mask))],
    }


def _draw(low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> Place:
    return tuple(np.floor(rng.uniform(low, high)).astype(int).tolist())


def _dice_after(session: Session, item: Item, place: Place) -> float:
    """Dice after one more click, which the reference answers; the session is as before."""
    session.add_points([place], [int(item.mask[place])])
    after = dice(session.mask(), item.mask)
    session.undo()
    return after


def uncertainty_rows(name: str, prompt: str, study: Study) -> list[dict[str, Any]]:
    """Ensemble and single pass, and how well each predicted Dice follows the real one."""
    rows: list[dict[str, Any]] = []
    head = {"set": name, "prompt": prompt, "cases": len(study.subjects)}
    for way, own in study.calibration.items():
        rows.append(
            {
                **head,
                "from": way,
                "AUSE": _text(study.values[f"{way}: AUSE"], study.subjects),
                "AUSE unranked": _text(study.values[f"{way}: unranked"], study.subjects),
                "ECE by case": _text(study.values[f"{way}: ECE"], study.subjects),
                "ECE pooled": round(own.ece, 4),
            }
        )
    real = study.values["Dice"]
    for way in PREDICTED:
        found = study.values[way]
        rows.append(
            {
                **head,
                "from": way,
                "real Dice": round(float(np.mean(real)), 3),
                "predicted Dice": round(float(np.mean(found)), 3),
                "mean abs. difference": _text(np.abs(np.subtract(found, real)), study.subjects),
                "Spearman": _correlation(found, real),
            }
        )
    return rows


def click_rows(name: str, prompt: str, study: Study) -> list[dict[str, Any]]:
    """Dice after one more click by each strategy."""
    before, rows = study.values["Dice"], []
    base = study.values["click: random near the mask"]
    for key, after in study.values.items():
        if not key.startswith("click: "):
            continue
        gain = paired_difference(after, before, study.subjects)
        row: dict[str, Any] = {
            "set": name,
            "prompt": prompt,
            "next click": key.removeprefix("click: "),
            "cases": len(after),
            "Dice before": round(float(np.mean(before)), 4),
            "Dice after": round(float(np.mean(after)), 4),
            "gain": f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]",
        }
        if "near" not in key:
            more = paired_difference(after, base, study.subjects)
            row["minus random near"] = f"{more.mean:+.4f} [{more.low:+.4f}, {more.high:+.4f}]"
        rows.append(row)
    return rows


def _text(values: Sequence[float] | np.ndarray, subjects: Sequence[str]) -> str:
    found = mean_interval([float(value) for value in values], subjects)
    return f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]"


def _correlation(first: Sequence[float], second: Sequence[float]) -> str:
    """Rank correlation over cases with its 95 % bootstrap interval."""
    rng, pairs = np.random.default_rng(0), np.array([first, second])
    draws = rng.integers(0, pairs.shape[1], (1000, pairs.shape[1]))
    found = [stats.spearmanr(*pairs[:, draw]).statistic for draw in draws]
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return f"{stats.spearmanr(first, second).statistic:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Measure every set with both prompts and write both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uncertainty", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=25, help="pictures of each set")
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=["polyps", "heads"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = ImagePredictor.from_pretrained("nano", device="cpu")
    uncertain, clicks = [], []
    for name in args.sets:
        studies = {prompt: Study() for prompt in PROMPTS}
        rng = np.random.default_rng(0)
        for item in SETS[name](args.data, args.limit):
            session = predictor.open(Picture(item.image))
            for prompt, give in PROMPTS.items():
                give(session.reset(), item)
                studies[prompt].add(session, item, rng)
        for prompt, study in studies.items():
            uncertain += uncertainty_rows(name, prompt, study)
            clicks += click_rows(name, prompt, study)
        print(name, flush=True)
    sampling = (
        f"{SAMPLING.samples} samples, box and click jitter {SAMPLING.jitter:g} of the extent, "
        f"{SAMPLING.dropout:g} of the channels of the embedding dropped"
    )
    notes = (
        f"Ensembles: {sampling}; one encoding per picture. AUSE: area under the "
        "sparsification-error curve of wrong pixels by entropy, relative to the mean error, 0 is a "
        "perfect ranking; `unranked` is that of a random order. ECE: 20 equal bins of foreground "
        "probability over all pixels of a picture. Intervals: 95 % bootstrap over subjects. "
        f"System load at the end {os.getloadavg()[0]:.1f}."
    )
    title = "Uncertainty of nano, zero-shot, on test splits"
    print(table.write("uncertainty", title, uncertain, notes=notes).read_text())
    notes = (
        f"One more click after the prompt, answered by the reference. Suggested: {sampling}. "
        f"Random clicks: mean of {RANDOM_DRAWS} draws; near the mask means within the box around "
        f"it and {MARGIN:.0%} of its extent beyond. The oracle clicks at the deepest pixel of the "
        "largest wrong region. Intervals: 95 % bootstrap over subjects."
    )
    title = "Where to click next: nano, zero-shot, on test splits"
    print(table.write("next_click", title, clicks, notes=notes).read_text())


if __name__ == "__main__":
    main()
