"""Head circumference in mm from masks of fetal heads, against the table of the data set.

Run: python -m benchmarks.head_circumference --data hc18_fetal_head [--runs NAME=RUN ...]

The circumference is that of the ellipse with the area moments of the largest part of a mask, its
holes filled (`segkit measure`). Rows: the reference masks (what the tool itself is off), the
training mean and the ellipse inscribed in the box (neither looks at the picture), `nano` with the
box, and trained runs. A box is that of the reference, an oracle; automatic runs get no prompt.
Intervals: bootstrap over pictures, one per examination. Writes
`results/head_circumference.{json,csv,md}`.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from jaxtyping import Bool
from PIL import Image
from scipy.ndimage import binary_fill_holes
from scipy.special import ellipe

from benchmarks import table
from benchmarks.training import dice, tight_box
from segkit.data.readers import load
from segkit.data.volume import Picture
from segkit.errors import InputError
from segkit.evaluation.statistics import mean_interval
from segkit.metrics.shapes import fit_ellipse
from segkit.predictors import ImagePredictor

TABLE = "pixel_size_and_HC.csv"
Mask = Bool[np.ndarray, "rows columns"]


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One picture, its reference, and what the table says."""

    picture: Picture
    mask: Mask
    pixel_mm: float
    circumference_mm: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A circumference in mm, None where nothing was found, and the Dice of its mask."""

    circumference_mm: float | None
    dice: float | None = None


Method = Callable[[Head], Answer]


def main() -> None:
    """Measure all rows on the test pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", nargs="*", default=[], metavar="NAME=RUN")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    heads = list(read(args.data / "test"))[: args.limit]
    methods: dict[str, tuple[Method, str]] = {
        "reference mask": (lambda head: measured(head, head.mask), "the mask itself"),
        "training mean": (constant(args.data / "train"), "none"),
        "ellipse in the box": (inscribed, "oracle box"),
    }
    nano = ImagePredictor.from_pretrained("nano", device="cpu")
    methods["nano, not adapted"] = prompted(nano), "oracle box"
    for name, run in (text.split("=", 1) for text in args.runs):
        methods[name] = of_run(ImagePredictor.from_pretrained(run, device="cpu"))
    rows = [
        row_of(name, [method(head) for head in heads], heads, prompt)
        for name, (method, prompt) in methods.items()
    ]
    notes = (
        f"{args.data.name}, {len(heads)} test pictures; true circumference "
        f"{min(h.circumference_mm for h in heads):.0f} to "
        f"{max(h.circumference_mm for h in heads):.0f} mm. Errors are absolute, the largest part "
        "of each mask is measured. A picture without a mask counts with its whole circumference. "
        f"nano has sha256 {nano.sha256}."
    )
    title = "Head circumference against the table"
    print(table.write("head_circumference", title, rows, notes=notes).read_text())


def read(folder: Path) -> Iterator[Head]:
    """Pictures of a split with their rows of the table.

    Raises:
        InputError: A picture or a mask of the table is missing.
    """
    with (folder / TABLE).open(encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    for name, pixel_mm, around_mm in rows:
        stem = Path(name).stem
        found = [sorted((folder / part).glob(f"{stem}.*")) for part in ("images", "masks")]
        if not all(found):
            raise InputError(f"there is no image or no mask of {name}", path=folder)
        (image, *_), (label, *_) = found
        opened = load(image)
        assert isinstance(opened, Picture)
        with Image.open(label) as mask:
            inside = np.asarray(mask.convert("L")) > 127
        yield Head(opened, inside, float(pixel_mm), float(around_mm))


def measured(head: Head, mask: Mask) -> Answer:
    """Circumference of the largest part of a mask."""
    if not mask.any():
        return Answer(None, 0.0)
    parts = cc3d.connected_components(mask, connectivity=8)
    counts = np.bincount(parts.reshape(-1))
    counts[0] = 0
    largest = binary_fill_holes(parts == counts.argmax())
    ellipse = fit_ellipse(largest, (head.pixel_mm, head.pixel_mm))
    return Answer(ellipse.circumference_mm, dice(mask, head.mask))


def inscribed(head: Head) -> Answer:
    """The ellipse in the box of the reference, upright."""
    (top, left), (bottom, right) = tight_box(head.mask)
    small, large = sorted(((bottom - top) * head.pixel_mm, (right - left) * head.pixel_mm))
    return Answer(2 * large * float(ellipe(1 - (small / large) ** 2)))


def constant(folder: Path) -> Method:
    """The mean circumference of the training pictures, whatever is shown."""
    mean = float(np.mean([head.circumference_mm for head in read(folder)]))

    def answer(head: Head) -> Answer:
        del head
        return Answer(mean)

    return answer


def prompted(predictor: ImagePredictor) -> Method:
    """A model that is given the box."""

    def answer(head: Head) -> Answer:
        session = predictor.open(head.picture)
        session.add_box(tight_box(head.mask))
        return measured(head, session.mask())

    return answer


def of_run(predictor: ImagePredictor) -> tuple[Method, str]:
    """A trained model, by itself or with the box."""
    if not predictor.segmenter.is_automatic:
        return prompted(predictor), "oracle box"
    return lambda head: measured(head, predictor.segment(head.picture) == 1), "none"


def row_of(
    name: str, answers: Sequence[Answer], heads: Sequence[Head], prompt: str
) -> dict[str, Any]:
    """Mean absolute error of one method, in mm and per cent."""
    errors = [
        abs((one.circumference_mm or 0.0) - head.circumference_mm)
        for one, head in zip(answers, heads, strict=True)
    ]
    shares = [100 * e / head.circumference_mm for e, head in zip(errors, heads, strict=True)]
    interval = mean_interval(errors, list(range(len(errors))))
    known = [one.dice for one in answers if one.dice is not None]
    return {
        "row": name,
        "prompt": prompt,
        "mean error mm": round(interval.mean, 2),
        "95 % interval": f"{interval.low:.2f} to {interval.high:.2f}",
        "median mm": round(interval.median, 2),
        "largest mm": round(max(errors), 2),
        "mean error %": round(float(np.mean(shares)), 2),
        "Dice": round(float(np.mean(known)), 4) if known else None,
        "without mask": sum(one.circumference_mm is None for one in answers),
    }


if __name__ == "__main__":
    main()
