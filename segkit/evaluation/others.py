"""Rows beside the model that is evaluated: other models, and predictions made elsewhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segkit.data.cases import Case
from segkit.errors import InputError
from segkit.evaluation.predictions import prediction_rows
from segkit.evaluation.rows import ADAPTED, AUTOMATIC_PROMPT, ZERO_SHOT, Row
from segkit.evaluation.samples import SampleReader
from segkit.predictors.base import Predictor

_TAKEN = (ADAPTED, ZERO_SHOT, "box_ellipse", "location_prior")


@dataclass(frozen=True, slots=True)
class Others:
    """Run folders or adapter files, and folders of predictions, by the name of their row."""

    models: Mapping[str, str | Path] = field(default_factory=dict)
    predictions: Mapping[str, str | Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*self.models, *self.predictions]
        wrong = [n for n in names if names.count(n) > 1 or n in _TAKEN or not _is_name(n)]
        if wrong:
            raise InputError(
                f"{wrong[0]!r} cannot name a row of the table",
                fix=f"use letters, digits, - and _, each once, and none of {_TAKEN}",
            )

    def rows(self, cases: Sequence[Case], reader: SampleReader, device: str) -> list[Row]:
        """Build the rows.

        Raises:
            InputError: A model needs prompts or has other classes, or predictions do not fit.
        """
        found = [_model_row(name, path, reader, device) for name, path in self.models.items()]
        return found + prediction_rows(self.predictions, cases, reader)


def named(given: str | Path | Mapping[str, str | Path] | None) -> dict[str, str | Path]:
    """Paths by row name; a single path goes by the name of its last folder."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(given).resolve().name)
    return {name or "predictions": given}


def _model_row(name: str, path: str | Path, reader: SampleReader, device: str) -> Row:
    predictor = Predictor.from_pretrained(path, device=device)
    if not predictor.segmenter.is_automatic:
        raise InputError(
            "a model beside another one must work without prompts, this one needs them",
            path=path,
            fix="evaluate it on its own with run=...",
        )
    if predictor.labels != dict(reader.labels):
        raise InputError(
            f"its classes are {predictor.labels}, those of the data set {dict(reader.labels)}",
            path=path,
            code="other_labels",
        )
    return Row(
        name,
        name,
        lambda sample: predictor.segment(sample.source),
        AUTOMATIC_PROMPT,
        is_oracle=False,
    )


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]+", text) is not None
