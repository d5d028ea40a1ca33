"""Robustness curves."""

from collections.abc import Callable

import numpy as np
import pytest

from segkit.data.preprocess import InputSpec
from segkit.errors import InputError
from segkit.evaluation.prompted import OraclePredictor
from segkit.evaluation.robustness import mean_dice, robustness
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.settings import RobustnessPlan
from segkit.models import build
from segkit.models.info import ModelInfo
from segkit.predictors.base import Predictor

LABELS = {1: "front", 2: "back"}


def test_curves_of_promptable_rows(volume_sample: Callable[[int], Sample]) -> None:
    segmenter = build.sam_tiny()
    info = ModelInfo.of(segmenter, labels=LABELS, input=InputSpec(size=64))
    oracle = OraclePredictor(Predictor(segmenter, info, device="cpu"), LABELS)
    rows = [
        Row("zero_shot", "Zero-shot", oracle, "box", is_oracle=True),
        Row("prior", "Prior", lambda sample: sample.reference, "none", is_oracle=False),
    ]
    plan = RobustnessPlan(cases=2, jitter=(0.0, 0.1), clicks=(1, 3))
    found = robustness(rows, [volume_sample(0), volume_sample(1)], plan)
    assert found["cases"] == 2
    assert found["box_jitter"]["x"] == [0.0, 0.1]
    assert set(found["box_jitter"]["rows"]) == {"zero_shot"}
    for key in ("box_jitter", "clicks"):
        curve = found[key]["rows"]["zero_shot"]
        assert len(curve["dice"]) == len(curve["spread"]) == 2
        assert all(0 <= value <= 1 for value in curve["dice"])


def test_nothing_to_prompt_is_no_curve(volume_sample: Callable[[int], Sample]) -> None:
    row = Row("prior", "Prior", lambda sample: sample.reference, "none", is_oracle=False)
    assert robustness([row], [volume_sample(0)], RobustnessPlan()) == {}


def test_absent_classes_do_not_lift_the_mean() -> None:
    reference = np.array([1, 1, 0, 0])
    assert mean_dice(np.array([1, 0, 0, 0]), reference, LABELS) == pytest.approx(2 / 3)
    assert mean_dice(np.zeros(4), np.zeros(4), LABELS) == 1
    assert mean_dice(np.ones(4), np.zeros(4), LABELS) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cases": -1}, "cases must be >= 0, got -1"),
        ({"jitter": (0.7,)}, r"jitter must be in \[0, 0.5\), got \(0.7,\)"),
        ({"clicks": (0,)}, r"clicks must be >= 1, got \(0,\)"),
    ],
)
def test_impossible_plans_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RobustnessPlan(**arguments)
