"""Calibration and saliency of rows that show their probabilities."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segkit.data.preprocess import InputSpec, SliceView
from segkit.errors import InputError
from segkit.evaluation import EvaluationSettings, Resampling, RobustnessPlan, Scoring, evaluate
from segkit.evaluation.maps import MapTally
from segkit.evaluation.oracle import OracleProtocol
from segkit.evaluation.prompted import OraclePredictor
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.models import build
from segkit.predictors.automatic import Look
from segkit.predictors.base import Predictor

QUICK = Resampling(resamples=200)


def row_of(probability: Callable[[Sample], np.ndarray]) -> Row:
    """A row whose maps (classes, then the axes of the file) are known."""

    def watched(sample: Sample, look: Look) -> np.ndarray:
        maps, view = probability(sample), SliceView(sample.source, InputSpec(size=32))
        for index in range(view.shape[0]):
            look(view, index, np.stack([view.stack(one)[index] for one in maps]))
        return sample.reference

    return Row("known", "Known", lambda s: s.reference, "none", is_oracle=False, watched=watched)


def test_perfect_maps(picture_sample: Sample) -> None:
    tally = MapTally(saliency="probability")
    row = row_of(lambda sample: (sample.reference == 1)[None].astype(float))
    np.testing.assert_array_equal(tally.predict(row, picture_sample), picture_sample.reference)
    found = tally.summarise("known", QUICK)
    assert found["calibration"]["ece"] == found["calibration"]["mce"] == 0.0
    assert found["calibration"]["voxels"] == picture_sample.reference.size
    assert found["saliency"]["s_measure"]["mean"] == pytest.approx(1.0)
    assert found["saliency"]["mae"]["mean"] == 0.0
    assert set(tally.definitions()) >= {"calibration", "s_measure", "weighted_f", "mean_dice"}


def test_classes_and_slices_are_pooled(volume_sample: Callable[[int], Sample]) -> None:
    tally = MapTally()
    half = row_of(lambda sample: np.full((2, *sample.reference.shape), 0.5))
    samples = [volume_sample(0), volume_sample(1)]
    for sample in samples:
        tally.predict(half, sample)
    share = np.mean([[s.reference == value for value in (1, 2)] for s in samples])
    found = tally.summarise("known", QUICK)["calibration"]
    assert found["ece"] == pytest.approx(0.5 - share)
    assert found["bins"]["foreground"][10] == pytest.approx(share)
    assert found["bins"]["probability"][0] is None
    assert "saliency" not in tally.summarise("known", QUICK)


def test_ignored_voxels_do_not_count(picture_sample: Sample) -> None:
    ignored = np.zeros(picture_sample.reference.shape, dtype=bool)
    ignored[:20] = True
    sample = replace(picture_sample, ignored=ignored)
    wrong_there = row_of(lambda s: np.where(ignored, 0.7, s.reference == 1)[None])
    tally = MapTally(saliency="probability")
    tally.predict(wrong_there, sample)
    found = tally.summarise("known", QUICK)
    assert found["calibration"]["ece"] == 0.0
    assert found["saliency"]["mae"]["mean"] == 0.0


def test_stretching_is_named(picture_sample: Sample) -> None:
    faint = row_of(lambda s: 0.2 + 0.2 * (s.reference == 1)[None])
    tally = MapTally(calibration=False, saliency="minmax")
    tally.predict(faint, picture_sample)
    assert tally.summarise("known", QUICK)["saliency"]["mae"]["mean"] == pytest.approx(0, abs=1e-9)
    assert "stretched" in tally.definitions()["mae"]


def test_the_oracle_shows_what_it_decides_by(picture_sample: Sample) -> None:
    oracle = OraclePredictor(
        Predictor(build.sam_tiny(), device="cpu"), {1: "disc"}, OracleProtocol("clicks", clicks=2)
    )
    seen: list[np.ndarray] = []
    labels = oracle.watched(picture_sample, lambda *shown: seen.append(shown[2]))
    np.testing.assert_array_equal(labels, oracle(picture_sample))
    assert seen[0].shape == (1, *labels.shape)
    np.testing.assert_array_equal(seen[0][0] > 0.5, labels == 1)


def test_automatic_models_show_probabilities_too(picture_sample: Sample) -> None:
    predictor = Predictor(build.sam_tiny(classes=2), device="cpu")
    seen: list[np.ndarray] = []
    labels = predictor.segment(picture_sample.source, look=lambda *shown: seen.append(shown[2]))
    background = 1 - seen[0].sum(axis=0)
    every = np.concatenate([background[None], seen[0]])
    np.testing.assert_array_equal(every.argmax(axis=0), labels)


def test_evaluation_reports_them(
    make_run: Callable[[bool], Path], data_root: Path, tmp_path: Path
) -> None:
    settings = EvaluationSettings(
        scoring=Scoring(resampling=QUICK),
        robustness=RobustnessPlan(cases=0),
        limit=2,
        saliency="probability",
    )
    found = evaluate(make_run(False), data_root, settings=settings, out=tmp_path)
    rows = found.summary["rows"]
    assert 0 <= rows["adapted"]["calibration"]["ece_by_case"]["mean"] <= 1
    assert 0 <= rows["zero_shot"]["saliency"]["s_measure"]["mean"] <= 1
    assert "calibration" not in rows["box_ellipse"]
    page = (tmp_path / "report.html").read_text()
    assert "Calibration error" in page
    assert "Weighted F" in page


def test_unknown_maps_are_refused() -> None:
    with pytest.raises(InputError, match=r"saliency must be one of .*got 'raw'"):
        EvaluationSettings(saliency="raw")  # type: ignore[arg-type]
