"""Baselines never look at the image, and know what they should know."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segkit.data.datasets import find_cases
from segkit.data.preprocess import InputSpec
from segkit.evaluation.baselines import EllipseInBox, LocationPrior
from segkit.evaluation.cohort import spread
from segkit.evaluation.robustness import mean_dice
from segkit.evaluation.samples import Sample, SampleReader

LABELS = {1: "front", 2: "back"}
SPEC = InputSpec(size=64)


def without_image(sample: Sample) -> Sample:
    blank = np.zeros_like(sample.source.array)
    return replace(sample, source=replace(sample.source, array=blank))


def test_ellipse_fills_an_ellipsoid_almost_perfectly(
    volume_sample: Callable[[int], Sample],
) -> None:
    sample = volume_sample(0)
    whole = replace(sample, reference=(sample.reference > 0).astype(np.uint8))
    found = EllipseInBox({1: "all"}, SPEC)(whole)
    assert found.shape == whole.reference.shape
    assert mean_dice(found, whole.reference, {1: "all"}) > 0.95


def test_ellipse_of_single_pixels_is_the_pixel(volume_sample: Callable[[int], Sample]) -> None:
    sample = volume_sample(0)
    dots = np.zeros_like(sample.reference)
    dots[2, 5, 5] = dots[3, 20, 10] = 2
    np.testing.assert_array_equal(EllipseInBox(LABELS, SPEC)(replace(sample, reference=dots)), dots)


def test_ellipse_of_each_instance(picture_sample: Sample) -> None:
    found = EllipseInBox({1: "disc"}, InputSpec(2, 64, "rgb"))(picture_sample)
    assert mean_dice(found, picture_sample.reference, {1: "disc"}) > 0.9
    joined = replace(picture_sample, instances=None)
    assert (EllipseInBox({1: "disc"}, InputSpec(2, 64, "rgb"))(joined) != found).any()


def test_prior_of_equal_cases_is_the_case(volume_sample: Callable[[int], Sample]) -> None:
    sample = volume_sample(0)
    prior = LocationPrior.fit([sample, sample], LABELS, SPEC)
    found = prior(sample)
    assert found.shape == sample.reference.shape
    assert mean_dice(found, sample.reference, LABELS) > 0.93


def test_prior_blurs_where_cases_differ(volume_sample: Callable[[int], Sample]) -> None:
    training = [volume_sample(number) for number in range(1, 6)]
    found = LocationPrior.fit(training, LABELS, SPEC)(volume_sample(6))
    assert 0.6 < mean_dice(found, volume_sample(6).reference, LABELS) < 0.99


def test_prior_works_on_pictures(picture_sample: Sample) -> None:
    prior = LocationPrior.fit([picture_sample], {1: "disc"}, InputSpec(2, 64, "rgb"))
    found = prior(picture_sample)
    assert mean_dice(found, picture_sample.reference, {1: "disc"}) > 0.9


def test_neither_sees_the_image(volume_sample: Callable[[int], Sample]) -> None:
    sample = volume_sample(2)
    prior = LocationPrior.fit([volume_sample(0)], LABELS, SPEC)
    for method in (prior, EllipseInBox(LABELS, SPEC)):
        np.testing.assert_array_equal(method(sample), method(without_image(sample)))


def test_prior_does_not_see_the_reference(volume_sample: Callable[[int], Sample]) -> None:
    sample = volume_sample(2)
    prior = LocationPrior.fit([volume_sample(0)], LABELS, SPEC)
    other = replace(sample, reference=np.zeros_like(sample.reference))
    np.testing.assert_array_equal(prior(sample), prior(other))


def test_prior_needs_training_cases() -> None:
    with pytest.raises(ValueError, match="needs training cases, got none"):
        LocationPrior.fit([], LABELS, SPEC)


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("3d/Task04_Hippocampus", None, 0.8),
        ("2d/kvasir_polyp", {1: "polyp"}, 0.9),
        ("2d/hc18_fetal_head", {1: "head"}, 0.9),
    ],
)
def test_ellipse_on_real_cases(
    name: str, labels: dict[int, str] | None, expected: float, shared_data: Callable[[str], Path]
) -> None:
    dataset = find_cases(shared_data(name), labels=labels)
    reader = SampleReader(dataset.labels)
    ellipse = EllipseInBox(dataset.labels, InputSpec())
    samples = list(reader.all(spread(dataset.cases["test"], 4)))
    found = [mean_dice(ellipse(one), one.reference, dataset.labels) for one in samples]
    assert np.mean(found) == pytest.approx(expected, abs=0.1)
