"""Evaluate a run on the cases of a split: adapted and zero-shot side by side, with baselines."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from segkit.data.cases import Case
from segkit.data.datamodule import SampleSpec
from segkit.data.datasets import Dataset, find_cases
from segkit.data.preprocess import InputSpec
from segkit.data.splits import SplitSpec
from segkit.evaluation.cohort import common_labels, labelled_cases, spread
from segkit.evaluation.examples import Example, choose_cases, make_example
from segkit.evaluation.interactions import Diary
from segkit.evaluation.maps import MapTally
from segkit.evaluation.measuring import measure, peak_memory_mb
from segkit.evaluation.oracle import OracleProtocol
from segkit.evaluation.others import Others
from segkit.evaluation.report import write_report
from segkit.evaluation.results import write_tables
from segkit.evaluation.robustness import robustness
from segkit.evaluation.rows import ADAPTED, ZERO_SHOT, Row, baseline_rows, model_rows
from segkit.evaluation.run_record import RunRecord
from segkit.evaluation.samples import Progress, SampleReader
from segkit.evaluation.scores import ScoreTable
from segkit.evaluation.settings import EvaluationSettings
from segkit.evaluation.summary import FORMAT, facts, model_name, tables
from segkit.evaluation.volume_user import VolumeOracle
from segkit.predictors.base import Predictor

_PRIOR_CASES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What an evaluation found: `summary` as in `summary.json`, all scores, and the folder."""

    summary: dict[str, Any]
    table: ScoreTable
    folder: Path | None


def evaluate(
    model: str | Path | None,
    data: str | Path | Dataset,
    *,
    split: str = "test",
    out: str | Path | None = None,
    settings: EvaluationSettings | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    splits: SplitSpec | None = None,
    samples: SampleSpec | None = None,
    others: Others | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a run folder, an adapter file or a bare model; every case on its own grid.

    `others` adds rows: further models, and folders of predictions made elsewhere. These may also
    be evaluated without a `model`.

    Results go to `out`, for a run folder by default to `eval/<split>` in it: `summary.json`,
    `cases.csv` (the model), `comparison.csv` (all rows), `report.html` and `figures/`. Nothing is
    written for other models without `out`. `checkpoint` is the weight file of a backbone that does
    not ship with the package. `splits` says how "train" and "val" were divided in training and
    `samples` how files were read then (channel, instances, label options).
    `progress` is called with the cases done and all cases.

    Raises:
        InputError: The split has no labelled cases, or its classes are not those of the model.
        CheckpointError: The model cannot be loaded.
    """
    settings = settings or EvaluationSettings()
    dataset = data if isinstance(data, Dataset) else find_cases(data)
    cases = labelled_cases(dataset, split, splits, settings.limit)
    others = others or Others()
    predictor = None
    if model is not None:
        predictor = Predictor.from_pretrained(model, checkpoint=checkpoint, device=device)
    reader = SampleReader(
        common_labels(predictor, dataset),
        dataset.channels,
        samples or SampleSpec(),
        is_hashed=settings.case_names == "hash",
    )
    rows: list[Row] = []
    if predictor is not None:
        rows = model_rows(predictor, settings, checkpoint=checkpoint, labels=reader.labels)
    rows += others.rows(cases, reader, settings, device)
    rows += _trivial_rows(predictor, settings, reader, dataset)
    name = rows[0].title if predictor is None else model_name(predictor, str(model))
    head = {"format": FORMAT, "model": name, "split": split}
    study = _Study(predictor, rows, reader, cases, settings)
    summary, table = study.run(progress)
    folder = _folder(model, out, split)
    if folder is not None:
        run = RunRecord.read(Path(model)) if model is not None and Path(model).is_dir() else None
        write_tables(folder, head | summary, table, study.diaries)
        write_report(folder, head | summary, table, study.examples(table), run=run)
    return Evaluation(head | summary, table, folder)


@dataclass(frozen=True, slots=True, eq=False)
class _Study:
    """Rows and cases of one evaluation."""

    predictor: Predictor | None
    rows: Sequence[Row]
    reader: SampleReader
    cases: Sequence[Case]
    settings: EvaluationSettings

    def run(self, progress: Progress | None) -> tuple[dict[str, Any], ScoreTable]:
        """Measure all rows on all cases; everything of `summary.json` but its head."""
        start = time.perf_counter()
        samples = self.reader.all(self.cases, progress)
        settings = self.settings
        maps = MapTally(calibration=settings.calibration, saliency=settings.saliency)
        measured = measure(self.rows, samples, self.reader.labels, settings.scoring, maps)
        clicks = self._interactions()
        curves = self._robustness()
        summary = {
            "cases": len(self.cases),
            **tables(measured, self.rows, self.settings),
            "interactions": clicks,
            "robustness": curves,
            "timing": {
                "seconds_per_case": measured.clock.to_dict(),
                "total_seconds": round(time.perf_counter() - start, 3),
                "peak_memory_mb": peak_memory_mb(self._device),
            },
            "facts": {} if self.predictor is None else facts(self.predictor),
        }
        return summary, measured.table

    def examples(self, table: ScoreTable) -> list[Example]:
        """Predict the best, the median and the worst case once more, to draw them."""
        rows = [row for row in self.rows if row.name in (ZERO_SHOT, ADAPTED)] or self.rows[:1]
        by_name = {self.reader.name(case): case for case in self.cases}
        return [
            make_example(place, self.reader.read(by_name[name]), rows, table)
            for place, name in choose_cases(table, rows[-1].name).items()
        ]

    @property
    def diaries(self) -> dict[str, Diary]:
        """What simulated users did in volumes, by the first row of each model."""
        return {name: oracle.desk.diary for name, oracle in self._users().items()}

    def _users(self) -> dict[str, VolumeOracle]:
        found: dict[str, VolumeOracle] = {}
        for row in self.rows:
            if isinstance(row.predict, VolumeOracle) and all(
                row.predict.desk is not known.desk for known in found.values()
            ):
                found[row.name] = row.predict
        return found

    def _interactions(self) -> dict[str, Any]:
        return {
            name: {
                "prompt": replace(oracle.protocol, clicks=_most(oracle.protocol)).describe(),
                "seed": oracle.seed,
                **oracle.desk.diary.summarise(
                    _most(oracle.protocol), self.settings.scoring.resampling
                ),
            }
            for name, oracle in self._users().items()
        }

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu") if self.predictor is None else self.predictor.device

    def _robustness(self) -> dict[str, Any]:
        plan, predictor = self.settings.robustness, self.predictor
        if plan.cases == 0 or predictor is None or predictor.segmenter.is_automatic:
            return {}
        chosen = spread(self.cases, plan.cases)
        return robustness(self.rows, self.reader.all(chosen), plan)


def _trivial_rows(
    predictor: Predictor | None,
    settings: EvaluationSettings,
    reader: SampleReader,
    dataset: Dataset,
) -> list[Row]:
    # without a description only the direction of the slices matters, which is the usual one
    info = None if predictor is None else predictor.info
    training = [case for case in dataset.cases.get("train", ()) if case.label is not None]
    return baseline_rows(
        settings,
        reader.labels,
        InputSpec() if info is None or info.input.is_volumetric else info.input,
        reader.all(spread(training, _PRIOR_CASES)) if training else None,
        is_automatic=predictor is None or predictor.segmenter.is_automatic,
    )


def _most(protocol: OracleProtocol) -> int:
    return max(protocol.counts) if protocol.kind == "clicks" else 1


def _folder(model: str | Path | None, out: str | Path | None, split: str) -> Path | None:
    if out is not None:
        return Path(out)
    if model is None or not Path(model).is_dir():
        return None
    return Path(model) / "eval" / split
