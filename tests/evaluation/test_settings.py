"""Settings refuse what cannot be done, before anything is read."""

import pytest

from segkit.errors import InputError
from segkit.evaluation.settings import EvaluationSettings, Scoring


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scoring("monai"), "definition must be one of .*got 'monai'"),
        (lambda: Scoring(tolerance_mm=-1), "tolerance_mm must be >= 0, got -1"),
        (lambda: EvaluationSettings(baselines=("atlas",)), r"unknown baselines \['atlas'\]"),
        (lambda: EvaluationSettings(limit=0), "limit must be >= 1 case, got 0; null means all"),
        (lambda: EvaluationSettings(case_names="mrn"), "case_names must be one of .*got 'mrn'"),
    ],
)
def test_wrong_settings_are_named(build: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()
