"""Slices for the pictures of a report."""

from collections.abc import Callable

import numpy as np
import pytest

from segkit.evaluation.examples import choose_cases, make_example
from segkit.evaluation.measuring import measure
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.scores import ScoreTable
from segkit.evaluation.settings import Scoring

LABELS = {1: "front", 2: "back"}


def shifted_by(sample: Sample) -> np.ndarray:
    """Worse the higher the number of the case."""
    return np.roll(sample.reference, int(sample.id[-1]), axis=1)


ROW = Row("adapted", "Adapted", shifted_by, "none", is_oracle=False)


def table_of(samples: list[Sample]) -> ScoreTable:
    return measure([ROW], samples, LABELS, Scoring()).table


def test_best_median_and_worst(volume_sample: Callable[[int], Sample]) -> None:
    table = table_of([volume_sample(number) for number in (3, 0, 4, 1, 2)])
    assert choose_cases(table, "adapted") == {
        "best": "case_0",
        "median": "case_2",
        "worst": "case_4",
    }


def test_few_cases_are_not_shown_twice(volume_sample: Callable[[int], Sample]) -> None:
    assert choose_cases(table_of([volume_sample(0)]), "adapted") == {"best": "case_0"}
    two = table_of([volume_sample(0), volume_sample(1)])
    assert choose_cases(two, "adapted") == {"best": "case_0", "median": "case_1"}


def test_example_shows_the_fullest_slice_upright(volume_sample: Callable[[int], Sample]) -> None:
    sample = volume_sample(1)
    example = make_example("best", sample, [ROW], table_of([sample]))
    fullest = int(np.count_nonzero(sample.reference, axis=(1, 2)).argmax())
    assert np.count_nonzero(example.reference) == np.count_nonzero(sample.reference[fullest])
    # "front" has the low rows, which are posterior in RAS, hence drawn at the bottom
    rows = np.argwhere(example.reference == 1)[:, 0].mean()
    assert rows > np.argwhere(example.reference == 2)[:, 0].mean()
    assert example.image.shape == (*example.reference.shape, 3)
    assert 0 <= example.image.min() <= example.image.max() <= 1
    assert example.aspect == pytest.approx(1.0 / 1.5)
    assert example.dice["adapted"] == pytest.approx(
        table_of([sample]).case_means("adapted", "dice")["case_1"]
    )


def test_pictures_keep_their_colours_and_direction(picture_sample: Sample) -> None:
    row = Row("adapted", "Adapted", lambda sample: sample.reference, "none", is_oracle=False)
    table = measure([row], [picture_sample], {1: "disc"}, Scoring()).table
    example = make_example("best", picture_sample, [row], table)
    np.testing.assert_array_equal(example.reference, picture_sample.reference)
    np.testing.assert_allclose(example.image, picture_sample.source.array / 255, atol=1e-6)
