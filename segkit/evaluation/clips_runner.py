"""Evaluate a model on clips: adapted and zero-shot, beside copying the first mask."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.cases import Case
from segkit.data.clips_sequences import ClipSpec
from segkit.data.datamodule import SampleSpec
from segkit.data.datasets import Dataset
from segkit.data.preprocess import InputSpec
from segkit.data.splits import SplitSpec
from segkit.errors import InputError
from segkit.evaluation.clips import Masks, Recording, RecordingReader
from segkit.evaluation.clips_figures import ClipTally, FilmStrip, make_strips
from segkit.evaluation.clips_rows import MARKS, Follow, Mark, Tracked, copy_ellipse, copy_first
from segkit.evaluation.cohort import common_labels, labelled_cases
from segkit.evaluation.measuring import Clock, Measured, peak_memory_mb
from segkit.evaluation.report import write_report
from segkit.evaluation.results import write_tables
from segkit.evaluation.rows import ADAPTED, ZERO_SHOT, Row
from segkit.evaluation.run_record import RunRecord
from segkit.evaluation.runner import Evaluation
from segkit.evaluation.samples import Progress, SampleReader
from segkit.evaluation.scores import FIGURES, Score, ScoreTable
from segkit.evaluation.settings import EvaluationSettings, Scoring
from segkit.evaluation.summary import FORMAT, facts, model_name, tables
from segkit.losses import Compat
from segkit.metrics import label_metrics
from segkit.metrics.case import CaseMetrics
from segkit.models.build import BUILDERS
from segkit.models.build_sam2 import Sam2Builder
from segkit.models.segmenter import Segmenter
from segkit.models.tracker import Tracker
from segkit.predictors.base import Predictor, default_input

COPY_LAST, COPY_ELLIPSE = "copy_last", "copy_ellipse"


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """How clips are cut (`clips`), how the first frame is marked (`mark`), and how scores are made.

    Of `evaluation` the scoring and the names of cases count. With `compat="authors"` figures are
    those of DD-SAM2's released code: the frames of a clip are one volume of voxels of side 1, time
    is its depth, and NSD is at half a voxel of edge voxels, whatever the scoring says.
    """

    clips: ClipSpec = field(default_factory=ClipSpec)
    mark: Mark = "box"
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    compat: Compat = None

    def __post_init__(self) -> None:
        if self.compat not in (None, "authors"):
            raise InputError(f"compat must be None or 'authors', got {self.compat!r}")
        if self.compat == "authors":
            scoring = replace(self.evaluation.scoring, definition="voxel", tolerance_mm=0.5)
            object.__setattr__(self, "evaluation", replace(self.evaluation, scoring=scoring))


def evaluate_clips(
    model: str | Path,
    dataset: Dataset,
    settings: ClipSettings,
    *,
    split: str = "test",
    out: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    splits: SplitSpec | None = None,
    samples: SampleSpec | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Follow the objects of the first frame through every clip of a split.

    The first frame is marked from the reference, an oracle, and not measured. Figures are means
    over the labelled frames of a clip; a frame that does not show the object and on which none is
    found has Dice 1. Arguments and files as in `evaluate`.

    Raises:
        InputError: The split shows nothing to follow, or its classes are not those of the model.
        CheckpointError: The model cannot be loaded.
    """
    evaluation = settings.evaluation
    cases = labelled_cases(dataset, split, splits)
    predictor = Predictor.from_pretrained(model, checkpoint=checkpoint, device=device)
    reader = SampleReader(
        common_labels(predictor, dataset),
        dataset.channels,
        samples or SampleSpec(),
        is_hashed=evaluation.case_names == "hash",
    )
    clips = RecordingReader(reader, _model_input(predictor, reader, cases[0]), settings.clips)
    rows, predict = _rows(predictor, settings.mark, checkpoint)
    start = time.perf_counter()
    measured = measure_clips(
        predict,
        clips.all(cases, progress),
        reader.labels,
        evaluation.scoring,
        as_volume=settings.compat == "authors",
    )
    summary: dict[str, Any] = {
        "format": FORMAT,
        "model": model_name(predictor, str(model)),
        "split": split,
        "cases": len({score.case for score in measured.table.scores}),
        **tables(measured, rows, evaluation),
        "robustness": {},
        "timing": {
            "seconds_per_case": measured.clock.to_dict(),
            "total_seconds": round(time.perf_counter() - start, 3),
            "peak_memory_mb": peak_memory_mb(predictor.device),
        },
        "facts": facts(predictor),
    }
    strips: list[FilmStrip] = []
    if (folder := _folder(model, out, split)) is not None:
        strips = make_strips(clips, cases, predict, measured.table, summary["headline"])
        _write(folder, model, summary, measured.table, strips)
    return Evaluation(summary, measured.table, folder)


def _model_input(predictor: Predictor, reader: SampleReader, case: Case) -> InputSpec:
    """How the model reads frames; a bare one reads them as plainly as the first one allows."""
    if predictor.info is not None:
        return predictor.info.input
    return default_input(reader.read(case).source, predictor.segmenter.spec.image_size)


def _folder(model: str | Path, out: str | Path | None, split: str) -> Path | None:
    """Where files go: `out`, for a run folder by default `eval/<split>`; else nowhere."""
    if out is None and not Path(model).is_dir():
        return None
    return Path(model) / "eval" / split if out is None else Path(out)


def _write(
    folder: Path,
    model: str | Path,
    summary: Mapping[str, Any],
    table: ScoreTable,
    strips: Sequence[FilmStrip],
) -> None:
    """Write tables and report."""
    write_tables(folder, summary, table)
    run = RunRecord.read(Path(model)) if Path(model).is_dir() else None
    write_report(folder, summary, table, strips=strips, run=run)


def measure_clips(
    rows: Mapping[str, Follow],
    recordings: Iterable[Recording],
    labels: Mapping[int, str],
    scoring: Scoring,
    *,
    as_volume: bool = False,
) -> Measured:
    """Run every row on every clip; one clip is in memory at a time.

    `as_volume` measures the frames of a clip as one volume in voxels, not each on its own.

    Raises:
        InputError: There is no clip.
    """
    scores: list[Score] = []
    clock, units, tally = Clock(), set(), ClipTally(as_volume=as_volume)
    compare = _volume_metrics if as_volume else _frame_metrics
    for recording in recordings:
        units.add("px" if as_volume else recording.unit)
        for name, follow in rows.items():
            start = time.perf_counter()
            masks = follow(recording)
            clock.add(name, time.perf_counter() - start)
            tally.add(name, recording, masks, labels)
            found = compare(recording, masks, labels, scoring)
            scores += [
                Score(name, recording.id, recording.group, value, found[value]) for value in labels
            ]
    if not scores:
        raise InputError(
            "no clip shows an object on a labelled frame that another one follows",
            fix="check the split, data.period and data.along",
            code="no_clips",
        )
    return Measured(ScoreTable(scores, labels), clock, frozenset(units), tally)


def _later(recording: Recording) -> np.ndarray:
    """Labelled frames but the first, which is shown."""
    labelled = np.flatnonzero(recording.is_labelled)
    return labelled[labelled > 0]


def _frame_metrics(
    recording: Recording, masks: Masks, labels: Mapping[int, str], scoring: Scoring
) -> dict[int, CaseMetrics]:
    """Means of the figures of single frames, on the spacing of their pixels."""
    frames = [
        label_metrics(
            masks[index],
            recording.reference[index],
            labels,
            recording.spacing_mm,
            tolerance_mm=scoring.tolerance_mm,
            definition=scoring.definition,
        )
        for index in _later(recording)
    ]
    return {value: mean_metrics([frame[value] for frame in frames]) for value in labels}


def _volume_metrics(
    recording: Recording, masks: Masks, labels: Mapping[int, str], scoring: Scoring
) -> dict[int, CaseMetrics]:
    """Figures of all frames as one volume, a frame apart being as far as a pixel."""
    later = _later(recording)
    return label_metrics(
        masks[later],
        recording.reference[later],
        labels,
        (1.0, 1.0, 1.0),
        tolerance_mm=scoring.tolerance_mm,
        definition=scoring.definition,
    )


def mean_metrics(frames: Sequence[CaseMetrics]) -> CaseMetrics:
    """Figures of a clip: means over its frames; voxels add up, flags are those of any frame."""
    means = {name: float(np.mean([getattr(one, name) for one in frames])) for name in FIGURES}
    return CaseMetrics(
        **means,
        reference_voxels=sum(one.reference_voxels for one in frames),
        predicted_voxels=sum(one.predicted_voxels for one in frames),
        flags=tuple(sorted({flag for one in frames for flag in one.flags})),
    )


def tracker_of(segmenter: Segmenter, checkpoint: str | Path | None = None) -> Tracker:
    """A model with the memory half of its backbone.

    Raises:
        InputError: Its backbone has none.
    """
    name = segmenter.spec.name if segmenter.recipe is None else segmenter.recipe.backbone.name
    builder = BUILDERS.get(name)
    if not isinstance(builder, Sam2Builder):
        raise InputError(
            f"{name} has no memory to follow objects with",
            fix="evaluate clips with a model on nano2 or on a sam2_* backbone",
            code="no_memory",
        )
    memory = builder.load_memory(checkpoint).to(segmenter.device)
    return Tracker(segmenter, memory).eval()


def _rows(
    predictor: Predictor, mark: Mark, checkpoint: str | Path | None
) -> tuple[list[Row], dict[str, Follow]]:
    """Descriptions for the tables, and what does the work."""
    predict: dict[str, Follow] = {}
    info = predictor.info
    origin = None if info is None else info.recipe.backbone
    frozen = predictor.segmenter
    if origin is not None:
        builder = BUILDERS[origin.name]
        frozen = builder(checkpoint=checkpoint, image_size=origin.image_size).eval()
        frozen = frozen.to(predictor.device)
    predict[ZERO_SHOT] = Tracked(tracker_of(frozen, checkpoint), mark)
    titles = {ZERO_SHOT: "Zero-shot (frozen, with memory)"}
    if origin is not None:
        predict[ADAPTED] = Tracked(tracker_of(predictor.segmenter, checkpoint), mark)
        titles[ADAPTED] = "Adapted"
    predict[COPY_LAST] = copy_first
    predict[COPY_ELLIPSE] = copy_ellipse
    titles |= {COPY_LAST: "First mask copied", COPY_ELLIPSE: "Ellipse in the first box copied"}
    prompts = {COPY_LAST: MARKS["mask"], COPY_ELLIPSE: MARKS["box"]}
    notes = {
        COPY_LAST: "never looks at the images: what a still object would need",
        COPY_ELLIPSE: "never looks at the images: what the first box alone gives away",
    }
    rows = [
        Row(
            name,
            titles[name],
            follow,  # type: ignore[arg-type]  # clips in place of cases; only words are read here
            prompts.get(name, MARKS[mark]),
            is_oracle=True,
            note=notes.get(name, ""),
        )
        for name, follow in predict.items()
    ]
    return rows, predict
