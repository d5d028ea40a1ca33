"""Which cases are evaluated, and whether their classes are those of the model."""

from collections.abc import Mapping, Sequence

from segkit.data.cases import Case
from segkit.data.datasets import Dataset
from segkit.data.splits import SplitSpec, split_cases
from segkit.errors import InputError
from segkit.predictors.base import Predictor

UNNAMED = {1: "object"}
"""Classes of a data set whose files do not name any."""


def labelled_cases(
    dataset: Dataset, split: str, spec: SplitSpec | None = None, limit: int | None = None
) -> tuple[Case, ...]:
    """Cases of a split that have a reference; at most `limit`, spread over the split.

    `spec` says how training divided "train" from "val" where the data set does not.

    Raises:
        InputError: The split does not exist or has no references.
    """
    cases = dict(dataset.cases)
    if spec is not None and split in ("train", "val"):
        divided = split_cases(dataset, spec)
        cases |= {"train": divided.train, "val": divided.val}
    found = cases.get(split, ())
    labelled = [case for case in found if case.label is not None]
    if not labelled:
        usable = [name for name, one in cases.items() if any(case.label for case in one)]
        raise InputError(
            f"split {split!r} has {len(found)} cases, {len(labelled)} of them with a reference",
            path=dataset.root,
            fix=f"splits with references: {usable}",
            code="no_references",
            option="split",
        )
    return spread(labelled, limit)


def spread(cases: Sequence[Case], limit: int | None) -> tuple[Case, ...]:
    """At most `limit` cases at equal steps."""
    if limit is None or limit >= len(cases):
        return tuple(cases)
    return tuple(cases[number * len(cases) // limit] for number in range(limit))


def common_labels(predictor: Predictor | None, dataset: Dataset) -> Mapping[int, str]:
    """Classes to evaluate; those of the data set where the model names none, and vice versa.

    Raises:
        InputError: Model and data set name their classes differently.
    """
    known = {} if predictor is None else predictor.labels
    if known and dict(dataset.labels) == UNNAMED and set(known) == set(UNNAMED):
        return dict(known)
    if known and dict(known) != dict(dataset.labels):
        raise InputError(
            f"the classes of the data set are {dict(dataset.labels)}, of the model {dict(known)}",
            path=dataset.root,
            fix="evaluate on data with the labels of the training set, or rename them",
            code="other_labels",
        )
    return dict(dataset.labels)
