"""The rows of a table say what they are told."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from segkit.data.preprocess import InputSpec
from segkit.errors import InputError
from segkit.evaluation.oracle import OracleProtocol
from segkit.evaluation.prompted import OraclePredictor
from segkit.evaluation.rows import baseline_rows, model_rows
from segkit.evaluation.samples import Sample
from segkit.evaluation.settings import EvaluationSettings
from segkit.models import build
from segkit.models.info import ModelInfo
from segkit.predictors.base import Predictor

LABELS = {1: "front", 2: "back"}


def test_automatic_model_stands_beside_its_oracle_prompted_backbone(
    make_run: Callable[[bool], Path], volume_sample: Callable[[int], Sample]
) -> None:
    predictor = Predictor.from_pretrained(make_run(True), device="cpu")
    frozen, adapted = model_rows(predictor, EvaluationSettings())
    assert (frozen.name, frozen.is_oracle) == ("zero_shot", True)
    assert "no automatic mode" in frozen.note
    # beside each other in pictures, where nobody reads notes
    assert (frozen.title, adapted.title) == ("Zero-shot, oracle box (64 px)", "Adapted, no prompt")
    assert (adapted.name, adapted.is_oracle, adapted.prompt) == (
        "adapted",
        False,
        "none (automatic)",
    )
    sample = volume_sample(0)
    np.testing.assert_array_equal(adapted.predict(sample), predictor.segment(sample.source))


def test_zero_shot_is_the_backbone_without_adapter(make_run: Callable[[bool], Path]) -> None:
    predictor = Predictor.from_pretrained(make_run(False), device="cpu")
    frozen, adapted = model_rows(predictor, EvaluationSettings(protocol=OracleProtocol("clicks")))
    assert isinstance(frozen.predict, OraclePredictor)
    assert isinstance(adapted.predict, OraclePredictor)
    assert frozen.prompt == adapted.prompt == "1 oracle click per object and slice"
    plain = build.sam_tiny()
    found = frozen.predict.predictor.segmenter
    for name, tensor in plain.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert frozen.predict.predictor.info.input == predictor.info.input


def test_bare_model_has_one_row() -> None:
    bare = Predictor(build.sam_tiny(), None, device="cpu")
    (row,) = model_rows(bare, EvaluationSettings(), labels=LABELS)
    assert row.name == "zero_shot"
    with pytest.raises(InputError, match="no classes to evaluate; name them"):
        model_rows(bare, EvaluationSettings())


def test_baselines_are_labelled(
    make_run: Callable[[bool], Path], volume_sample: Callable[[int], Sample]
) -> None:
    spec = Predictor.from_pretrained(make_run(True), device="cpu").info.input
    training = [volume_sample(0)]
    rows = baseline_rows(EvaluationSettings(), LABELS, spec, training, is_automatic=True)
    assert [(row.name, row.is_oracle) for row in rows] == [
        ("box_ellipse", True),
        ("location_prior", False),
    ]
    rows = baseline_rows(EvaluationSettings(), LABELS, spec, training, is_automatic=False)
    assert [row.name for row in rows] == ["box_ellipse"]
    none = EvaluationSettings(baselines=())
    assert baseline_rows(none, LABELS, spec, training, is_automatic=True) == []


def test_a_volumetric_model_is_measured_alone() -> None:
    def predictor(classes: int | None) -> Predictor:
        segmenter = build.sam3d_tiny(classes=classes)
        blocks = InputSpec(channels="repeat", patch=(8, 32, 32))
        return Predictor(segmenter, ModelInfo.of(segmenter, labels=LABELS, input=blocks))

    assert [row.name for row in model_rows(predictor(2), EvaluationSettings())] == ["adapted"]
    clicks = OracleProtocol("clicks", counts=(5, 1))
    rows = model_rows(predictor(None), EvaluationSettings(protocol=clicks))
    assert [(row.name, row.title, row.prompt) for row in rows] == [
        ("adapted", "Adapted, 1 click", "1 oracle click per class and volume"),
        (
            "adapted_5_clicks",
            "Adapted, 5 clicks",
            "5 oracle clicks, each on the largest error, per class and volume",
        ),
    ]
    (row,) = model_rows(predictor(None), EvaluationSettings())
    assert (row.title, row.prompt) == ("Adapted", "oracle box per class and volume")


def test_models_of_slices_are_clicked_in_volumes_on_request(
    make_run: Callable[[bool], Path],
) -> None:
    predictor = Predictor.from_pretrained(make_run(False), device="cpu")
    protocol = OracleProtocol("clicks", per="volume", counts=(1, 3))
    rows = model_rows(predictor, EvaluationSettings(protocol=protocol))
    assert [row.name for row in rows] == [
        *("zero_shot", "zero_shot_3_clicks"),
        *("adapted", "adapted_3_clicks"),
    ]
