"""Rows beside the model that is evaluated: other models, and predictions made elsewhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segkit.data.cases import Case
from segkit.errors import InputError
from segkit.evaluation.predictions import prediction_rows
from segkit.evaluation.rows import ADAPTED, ZERO_SHOT, Row, automatic_row, oracle_rows
from segkit.evaluation.samples import SampleReader
from segkit.evaluation.settings import EvaluationSettings
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

    def rows(
        self,
        cases: Sequence[Case],
        reader: SampleReader,
        settings: EvaluationSettings,
        device: str,
    ) -> list[Row]:
        """Build the rows; models that need prompts get those of `settings`.

        Raises:
            InputError: A model has other classes, or predictions do not fit.
        """
        found: list[Row] = []
        for name, path in self.models.items():
            found += _model_rows(name, path, reader, settings, device)
        return found + prediction_rows(self.predictions, cases, reader)


def named(given: str | Path | Mapping[str, str | Path] | None) -> dict[str, str | Path]:
    """Paths by row name; a single path goes by the name of its last folder."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return dict(given)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(given).resolve().name)
    return {name or "predictions": given}


def _model_rows(
    name: str, path: str | Path, reader: SampleReader, settings: EvaluationSettings, device: str
) -> list[Row]:
    predictor = Predictor.from_pretrained(path, device=device)
    if predictor.labels != dict(reader.labels):
        raise InputError(
            f"its classes are {predictor.labels}, those of the data set {dict(reader.labels)}",
            path=path,
            code="other_labels",
        )
    if not predictor.segmenter.is_automatic:
        per = "volume" if predictor.is_volumetric else settings.protocol.per
        asked = replace(settings, protocol=replace(settings.protocol, per=per))
        return oracle_rows(name, name, predictor, dict(reader.labels), asked)
    return [automatic_row(name, name, predictor)]


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]+", text) is not None
