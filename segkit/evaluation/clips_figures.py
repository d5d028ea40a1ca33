"""Figures of clips beside those of cases (J, F, J&F, consistency), and film strips."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from segkit.data.cases import Case
from segkit.evaluation.clips import Masks, Recording, RecordingReader
from segkit.evaluation.clips_rows import Follow
from segkit.evaluation.examples import choose_cases, crop, shade
from segkit.evaluation.scores import ScoreTable
from segkit.evaluation.statistics import Resampling, mean_interval
from segkit.metrics.clip import CLIP_FIGURES, ClipMetrics, clip_metrics

FRAMES = 6
"""Frames of a strip."""


@dataclass(slots=True)
class ClipTally:
    """Collects the figures of every row and clip; those of its classes are averaged.

    `as_volume` only says what the other figures of these clips are.
    """

    figures: dict[str, dict[str, list[ClipMetrics]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    groups: dict[str, str] = field(default_factory=dict)
    as_volume: bool = False

    def add(self, row: str, recording: Recording, masks: Masks, labels: Mapping[int, str]) -> None:
        """Measure the labelled frames of one clip."""
        found, wanted = masks[recording.is_labelled], recording.reference[recording.is_labelled]
        self.groups[recording.id] = recording.group
        self.figures[row][recording.id] = [
            clip_metrics(found == value, wanted == value) for value in labels
        ]

    def summarise(self, row: str, resampling: Resampling) -> dict[str, Any]:
        """Entry of a row in `summary.json`: means over clips, intervals over subjects."""
        clips = self.figures[row]
        groups = [self.groups[clip] for clip in clips]
        found = {}
        for name in CLIP_FIGURES:
            means = [
                float(np.mean([getattr(one, name) for one in each])) for each in clips.values()
            ]
            found[name] = mean_interval(means, groups, resampling=resampling).to_dict()
        return {"clip": found}

    def definitions(self) -> dict[str, str]:
        """One sentence for each figure, and one that says which frames count."""
        frames = "of each clip, labelled frames after the first, which is shown and not measured"
        if self.as_volume:
            frames += (
                "; Dice, IoU, NSD and distances are those of all these frames as one volume of "
                "voxels of side 1, time being its depth, as in the released code of DD-SAM2"
            )
        return {"frames": frames, **CLIP_FIGURES}


@dataclass(frozen=True, slots=True, eq=False)
class FilmStrip:
    """Some frames of one clip: images in [0, 1] and label maps, all of one size.

    `place` says why it was chosen, `numbers` which frames they are, counted from the one that is
    shown; `dice` is the mean over classes by row, `aspect` the height of a pixel over its width.
    """

    place: str
    case: str
    numbers: tuple[int, ...]
    images: tuple[Float[np.ndarray, "rows cols 3"], ...]
    reference: tuple[Integer[np.ndarray, "rows cols"] | None, ...]
    predictions: Mapping[str, tuple[Integer[np.ndarray, "rows cols"], ...]]
    dice: Mapping[str, float]
    aspect: float


def make_strips(
    reader: RecordingReader,
    cases: Sequence[Case],
    rows: Mapping[str, Follow],
    table: ScoreTable,
    headline: str,
) -> list[FilmStrip]:
    """Best, median and worst clip of a row; the rows follow them again."""
    chosen = choose_cases(table, headline)
    strips = []
    for sequence in reader.sequences(cases):
        places = [place for place, case in chosen.items() if case == sequence.name]
        if places and (recording := reader.read(cases, sequence)) is not None:
            masks = {name: follow(recording) for name, follow in rows.items()}
            strips.append(film_strip(places[0], recording, masks, table))
    return sorted(strips, key=lambda strip: list(chosen).index(strip.place))


def film_strip(
    place: str, recording: Recording, masks: Mapping[str, Masks], table: ScoreTable
) -> FilmStrip:
    """Cut out the neighbourhood of all masks on frames at equal distances, labelled ones first."""
    numbers = _chosen(recording)
    box = crop([recording.reference[list(numbers)].max(0), *(m.max(0) for m in masks.values())])
    height, width = recording.spacing_mm
    return FilmStrip(
        place=place,
        case=recording.id,
        numbers=numbers,
        images=tuple(shade(recording.frame(index))[box] for index in numbers),
        reference=tuple(
            recording.reference[index][box] if recording.is_labelled[index] else None
            for index in numbers
        ),
        predictions={name: tuple(m[index][box] for index in numbers) for name, m in masks.items()},
        dice={name: table.case_means(name, "dice")[recording.id] for name in masks},
        aspect=height / width,
    )


def _chosen(recording: Recording) -> tuple[int, ...]:
    """Numbers of the frames to show: the first, and others spread evenly over the clip."""
    labelled = np.flatnonzero(recording.is_labelled)
    among = labelled if len(labelled) >= FRAMES else np.arange(len(recording))
    places = np.linspace(0, len(among) - 1, min(FRAMES, len(among))).round().astype(int)
    numbers = among[places].tolist()
    if len(labelled) < FRAMES:  # every labelled frame has its place
        others = [one for one in numbers if one not in labelled]
        spare = FRAMES - len(labelled)
        numbers = sorted({*labelled.tolist(), *others[:spare]})
    return tuple(numbers)
