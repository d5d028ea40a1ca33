"""Rows are measured on the grid of the case, with the spacing of the case."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from segkit.evaluation.measuring import measure, peak_memory_mb
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.settings import Scoring

LABELS = {1: "front", 2: "back"}


def row(predict: Callable[[Sample], np.ndarray], name: str = "adapted") -> Row:
    return Row(name, name, predict, prompt="none", is_oracle=False)


def test_perfect_and_shifted_rows(volume_sample: Callable[[int], Sample]) -> None:
    perfect = row(lambda sample: sample.reference)
    shifted = row(lambda sample: np.roll(sample.reference, 1, axis=0), "shifted")
    samples = [volume_sample(number) for number in range(2)]
    measured = measure([perfect, shifted], samples, LABELS, Scoring())
    assert measured.units == {"mm"}
    assert len(measured.table.scores) == 2 * 2 * 2
    assert {score.metrics.dice for score in measured.table.of("adapted")} == {1.0}
    # one slice is 3 mm here
    assert {score.metrics.hd95_mm for score in measured.table.of("shifted")} == {3.0}
    seconds = measured.clock.to_dict()
    assert set(seconds) == {"adapted", "shifted"}
    assert seconds["adapted"]["mean"] >= 0


def test_definition_and_tolerance_are_used(volume_sample: Callable[[int], Sample]) -> None:
    shifted = row(lambda sample: np.roll(sample.reference, 1, axis=1))
    found = {
        (definition, tolerance): measure(
            [shifted], [volume_sample(0)], LABELS, Scoring(definition, tolerance)
        )
        .table.scores[0]
        .metrics.nsd
        for definition in ("surfel", "voxel")
        for tolerance in (0.5, 2.0)
    }
    assert len(set(found.values())) >= 3
    assert found["surfel", 2.0] > found["surfel", 0.5]


def test_ignored_voxels_count_for_nothing(volume_sample: Callable[[int], Sample]) -> None:
    sample = volume_sample(0)
    ignored = np.zeros(sample.reference.shape, dtype=bool)
    ignored[:, :4] = True
    noisy = row(lambda s: np.where(ignored, 1, s.reference))
    assert measure([noisy], [sample], LABELS, Scoring()).table.scores[0].metrics.dice < 1
    marked = replace(sample, ignored=ignored)
    assert measure([noisy], [marked], LABELS, Scoring()).table.scores[0].metrics.dice == 1


def test_pictures_without_spacing_are_measured_in_pixels(picture_sample: Sample) -> None:
    perfect = row(lambda sample: sample.reference)
    assert measure([perfect], [picture_sample], {1: "disc"}, Scoring()).units == {"px"}


def test_another_grid_is_refused(volume_sample: Callable[[int], Sample]) -> None:
    wrong = row(lambda sample: sample.reference[1:])
    with pytest.raises(ValueError, match=r"'adapted' returned shape \(5, 28, 20\).*\(6, 28, 20\)"):
        measure([wrong], [volume_sample(0)], LABELS, Scoring())


def test_log_lines_do_not_name_cases(
    volume_sample: Callable[[int], Sample], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    secret = replace(volume_sample(0), id="DOE_JOHN_19700101")
    measure([row(lambda sample: sample.reference)], [secret], LABELS, Scoring())
    assert "evaluated case 1" in caplog.text
    assert "DOE" not in caplog.text


def test_memory_is_reported() -> None:
    assert peak_memory_mb(torch.device("cpu"))["host"] > 50
