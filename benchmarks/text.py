"""Masks from words alone, against boxes that know nothing and boxes that know all.

`python -m benchmarks.text --data PATH [--limit 40]`

Every row prompts the same frozen `nano` with a box. From words: `nano_clip` finds the region, its
settings are those chosen on generated validation pictures; nothing is chosen here. Words of the
real sets were fixed before the first run. Writes `results/text.{json,csv,md}`.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import table
from benchmarks.zero_shot_data import SETS
from segkit.evaluation.statistics import mean_interval, paired_difference
from segkit.models.text_encoder import load_text_encoder
from segkit.predictors.base import Predictor
from segkit.text import TextPrompter
from tools.text.pictures import captioned_picture
from tools.text.train import TEST

GENERATED = 256  # pixels of a side
WORDS: dict[str, tuple[str, ...]] = {
    "heads": ("a large bright ring", "a large bright ring shaped structure", "a large skull"),
    "polyps": ("a round lesion", "a bright round polyp", "a large circular mass"),
}
OTHER: dict[str, tuple[str, ...]] = {
    "heads": ("two small dark long objects",),
    "polyps": ("two small dark long objects",),
}
"""Words for what is not there: a method that listens must do worse with them."""
Box = tuple[tuple[float, float], tuple[float, float]]
Scores = dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An image, the object that words mean, the words, and words that mean something else."""

    subject: str
    image: np.ndarray
    mask: np.ndarray
    words: tuple[str, ...]
    other: tuple[str, ...]


def generated(limit: int, one_kind: bool) -> Iterator[Case]:
    """Held-out pictures; with `one_kind` nothing but the described objects is in them."""
    number = 0
    for _ in range(limit):
        while True:
            picture = captioned_picture((TEST, number), GENERATED)
            number += 1
            if picture.kinds[0].count == 1 and (len(picture.kinds) == 1) == one_kind:
                break
        rng = np.random.default_rng((TEST, number, 9))
        words = tuple(picture.caption(rng, 0) for _ in range(3))
        kind = picture.kinds[0]
        tone = "dark" if kind.tone == "bright" else "bright"
        shape = "long" if kind.shape == "round" else "round"
        yield Case(
            str(number), picture.image, picture.masks[0], words, (f"a {tone} {shape} object",)
        )


def real(name: str, root: Path, limit: int) -> Iterator[Case]:
    """Test images of a real data set and fixed words."""
    for item in SETS[name](root, limit):
        yield Case(item.subject, item.image, item.mask, WORDS[name], OTHER[name])


def box_of(mask: np.ndarray) -> Box:
    """Half-open box around a mask: an oracle."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(rows[0]), float(cols[0])), (float(rows[-1] + 1), float(cols[-1] + 1))


def central(shape: tuple[int, int], share: float) -> Box:
    """Box in the middle whose sides are a share of those of the image."""
    height, width = shape
    first = (height * (1 - share) / 2, width * (1 - share) / 2)
    return first, (height - first[0], width - first[1])


def filled(box: Box, shape: tuple[int, int]) -> np.ndarray:
    """The box itself as a mask."""
    mask = np.zeros(shape, bool)
    (top, left), (bottom, right) = box
    mask[round(top) : round(bottom), round(left) : round(right)] = True
    return mask


def dice(guess: np.ndarray, truth: np.ndarray) -> float:
    """Dice; the truth is never empty here."""
    return 2.0 * float((guess & truth).sum()) / float(guess.sum() + truth.sum())


def case_scores(predictor: Predictor, prompter: TextPrompter, case: Case) -> Scores:
    """Dice of every row on one case."""
    session, shape = predictor.open(case.image), case.mask.shape

    def prompted(boxes: Sequence[Box]) -> float:
        session.reset()
        if not boxes:
            return 0.0
        return dice(session.add_box(boxes[0]).mask(), case.mask)

    found = prompter.find(case.image, case.words)
    single = prompter.find(case.image, case.words[:1])
    other = prompter.find(case.image, case.other)
    peak = 0.0
    if found.points:
        row, col = (int(value) for value in found.points[0])
        peak = float(case.mask[row, col])
    return {
        "words": prompted(found.boxes),
        "words, one wording": prompted(single.boxes),
        "words for something else": prompted(other.boxes),
        "words, the box itself": dice(filled(found.boxes[0], shape), case.mask)
        if found.boxes
        else 0,
        "centre box (half the side)": prompted([central(shape, 0.5)]),
        "box around the whole image": prompted([central(shape, 1.0)]),
        "oracle box": prompted([box_of(case.mask)]),
        "peak of the saliency lies on the object (share)": peak,
        "chance of that (share)": float(case.mask.mean()),
    }


def rows_of(
    name: str, cases: Sequence[Case], scorer: Callable[[Case], Scores]
) -> list[dict[str, object]]:
    """Mean with interval of every row on one set, and the paired differences to `words`."""
    found = [scorer(case) for case in cases]
    subjects = [case.subject for case in cases]
    words = [scores["words"] for scores in found]
    rows: list[dict[str, object]] = []
    for row in found[0]:
        values = [scores[row] for scores in found]
        interval = mean_interval(values, subjects)
        entry: dict[str, object] = {
            "set": name, "prompt": row, "mean": round(interval.mean, 4),
            "low": _rounded(interval.low), "high": _rounded(interval.high),
            "images": len(cases), "subjects": len(set(subjects)),
        }  # fmt: skip
        if row != "words" and "share" not in row:
            gap = paired_difference(words, values, subjects)
            entry["words minus this"] = _rounded(gap.mean)
            entry["low of it"], entry["high of it"] = _rounded(gap.low), _rounded(gap.high)
        rows.append(entry)
    return rows


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("SEGKIT_DATA"))
    parser.add_argument("--limit", type=int, default=40, help="images per set")
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = Predictor.from_pretrained("nano", device="cpu")
    prompter = TextPrompter(load_text_encoder("nano_clip"))
    scorer = partial(case_scores, predictor, prompter)
    sets: dict[str, list[Case]] = {
        "generated, one kind of object": list(generated(args.limit, one_kind=True)),
        "generated, with distractors": list(generated(args.limit, one_kind=False)),
    }
    if args.data is not None:
        sets |= {name: list(real(name, Path(args.data), args.limit)) for name in WORDS}
    rows = [row for name, cases in sets.items() for row in rows_of(name, cases, scorer)]
    facts = prompter.facts()
    notes = (
        f"Masks by `nano` (sha256 {predictor.sha256[:16]}...), places by `nano_clip` (sha256 "
        f"{facts['sha256'][:16]}..., saliency {facts['saliency']}, regions {facts['regions']}). "
        "Means of Dice (but for the rows of shares), 95 % bootstrap intervals over subjects. "
        f"Words: {WORDS}; something else: {OTHER}; generated pictures have captions of their own. "
        "The oracle box comes from the reference. Nothing was chosen on these images."
    )
    print(table.write("text", "Masks from words", rows, notes=notes).read_text())


if __name__ == "__main__":
    main()
