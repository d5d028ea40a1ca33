"""Best, median and worst case of a row, as slices ready to be drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.volume import Picture, Volume
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.scores import ScoreTable

_MARGIN = 0.6  # of the extent of the masks, on each side
_SMALLEST = 48  # pixels of a cropped side


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One slice of one case: image in [0, 1] and label maps, all of one size.

    `place` says why it was chosen, `dice` is the mean over the classes of the whole case by row,
    `aspect` the height of a pixel over its width.
    """

    place: str
    case: str
    image: Float[np.ndarray, "rows cols 3"]
    reference: Integer[np.ndarray, "rows cols"]
    predictions: Mapping[str, Integer[np.ndarray, "rows cols"]]
    dice: Mapping[str, float]
    aspect: float


def choose_cases(table: ScoreTable, row: str) -> dict[str, str]:
    """Case of the highest, the middle and the lowest mean Dice; fewer where cases are few."""
    means = table.case_means(row, "dice")
    ranked = sorted(means, key=lambda case: (-means[case], case))
    chosen: dict[str, str] = {}
    for place, case in (
        ("best", ranked[0]),
        ("median", ranked[len(ranked) // 2]),
        ("worst", ranked[-1]),
    ):
        if case not in chosen.values():
            chosen[place] = case
    return chosen


def make_example(place: str, sample: Sample, rows: Sequence[Row], table: ScoreTable) -> Example:
    """Predict a case again and cut out the slice with the most reference pixels."""
    view = _plain_view(sample.source)
    stack = view.stack(sample.reference)
    index = int(np.count_nonzero(stack, axis=(1, 2)).argmax())
    image = shade(view.stack(sample.source.array)[index])
    maps = {row.name: view.stack(row.predict(sample))[index] for row in rows}
    turn = _upright if isinstance(sample.source, Volume) else np.asarray
    box = crop([stack[index], *maps.values()])
    cut: Callable[[np.ndarray], np.ndarray] = lambda array: turn(array[box])  # noqa: E731
    return Example(
        place=place,
        case=sample.id,
        image=cut(image),
        reference=cut(stack[index]),
        predictions={name: cut(labels) for name, labels in maps.items()},
        dice={row.name: table.case_means(row.name, "dice")[sample.id] for row in rows},
        aspect=view.spacing_mm[1] / view.spacing_mm[2],
    )


def _plain_view(source: Volume | Picture) -> SliceView:
    return SliceView(source, InputSpec(3, 64, "repeat", Intensity("percentile")))


def shade(plane: np.ndarray) -> Float[np.ndarray, "rows cols 3"]:
    """Grey or colour slice in [0, 1], dark and bright outliers clipped."""
    if plane.dtype == np.uint8 and plane.ndim == 3:
        return plane.astype(np.float32) / 255
    values = plane.astype(np.float32)
    low, high = np.percentile(values, [0.5, 99.5])
    scaled = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2)


def _upright(array: np.ndarray) -> np.ndarray:
    """Anterior or superior up, patient right on the left, as radiologists look at slices."""
    return array[::-1, ::-1]


def crop(masks: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Neighbourhood of all masks; the whole slice where all are empty."""
    union = np.logical_or.reduce([mask > 0 for mask in masks])
    if not union.any():
        return slice(None), slice(None)
    parts = []
    for axis, size in enumerate(union.shape):
        where = np.flatnonzero(union.any(axis=1 - axis))
        low, high = int(where[0]), int(where[-1]) + 1
        pad = max(int(_MARGIN * (high - low)), (_SMALLEST - (high - low)) // 2 + 1, 1)
        parts.append(slice(max(low - pad, 0), min(high + pad, size)))
    return parts[0], parts[1]
