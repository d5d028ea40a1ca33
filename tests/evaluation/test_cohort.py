"""Which cases are evaluated."""

from dataclasses import replace
from pathlib import Path

import pytest

from segkit.data.datasets import Dataset, find_cases
from segkit.data.splits import SplitSpec, split_cases
from segkit.errors import InputError
from segkit.evaluation.cohort import common_labels, labelled_cases, spread
from segkit.models import build
from segkit.models.info import ModelInfo
from segkit.predictors.base import Predictor


@pytest.fixture
def dataset(data_root: Path) -> Dataset:
    return find_cases(data_root)


def test_test_cases_with_references(dataset: Dataset) -> None:
    assert [case.id for case in labelled_cases(dataset, "test")] == [
        f"case_{number:03d}" for number in range(7, 12)
    ]


def test_validation_cases_are_those_of_training(dataset: Dataset) -> None:
    spec = SplitSpec(fraction=0.34)
    assert labelled_cases(dataset, "val", spec) == split_cases(dataset, spec).val
    assert set(labelled_cases(dataset, "train", spec)).isdisjoint(split_cases(dataset, spec).val)


def test_a_limit_spreads_over_the_split() -> None:
    assert spread(list("abcdefghij"), 3) == ("a", "d", "g")
    assert spread(list("ab"), 5) == ("a", "b")
    assert spread(list("ab"), None) == ("a", "b")


def test_a_split_without_references_is_refused(dataset: Dataset) -> None:
    bare = tuple(replace(case, label=None) for case in dataset.cases["test"])
    without = replace(dataset, cases={**dataset.cases, "test": bare})
    with pytest.raises(
        InputError, match=r"'test' has 5 cases, 0 of them .*splits with references: \['train'\]"
    ):
        labelled_cases(without, "test")
    with pytest.raises(InputError, match="split 'validation' has 0 cases"):
        labelled_cases(dataset, "validation")


def test_classes_must_be_those_of_the_model(dataset: Dataset) -> None:
    segmenter = build.sam_tiny(classes=2)
    bare = Predictor(segmenter, None, device="cpu")
    assert common_labels(bare, dataset) == {1: "front", 2: "back"}
    unnamed = replace(dataset, labels={1: "object"})
    polyp = ModelInfo.of(segmenter, labels={1: "polyp"})
    assert common_labels(Predictor(segmenter, polyp, device="cpu"), unnamed) == {1: "polyp"}
    info = ModelInfo.of(segmenter, labels={1: "front", 2: "tail"})
    with pytest.raises(InputError, match=r"'back'\}, of the model .*'tail'"):
        common_labels(Predictor(segmenter, info, device="cpu"), dataset)
