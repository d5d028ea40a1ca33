"""Training and validation sides of a data set, by subject; the test side stays apart."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from segkit.data.cases import Case, shorten
from segkit.data.datasets import Dataset
from segkit.errors import InputError


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """How validation cases are taken from the training cases.

    `fraction` of the subjects, or, if `fold` is given, one of `folds` equal parts of them. Where
    the data set ships a validation folder that one is used; where it ships folds, `fold` picks
    one of these. The choice depends on the names of the subjects and on `seed` alone, not on their
    order or on the machine.
    """

    fraction: float = 0.2
    fold: int | None = None
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise InputError(
                f"fraction must lie between 0 and 1, got {self.fraction}",
                fix="a run without validation cannot choose its best model",
            )
        if self.folds < 2:
            raise InputError(f"folds must be >= 2, got {self.folds}", fix="5 is usual")
        if self.fold is not None and self.fold < 0:
            raise InputError(f"fold must be >= 0, got {self.fold}", fix="folds count from 0")


@dataclass(frozen=True, slots=True)
class Splits:
    """The cases a trainer may see. There is no way from here to the test cases."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]


def split_cases(dataset: Dataset, spec: SplitSpec) -> Splits:
    """Divide the training cases of a data set into training and validation.

    Raises:
        InputError: One side would be empty, `fold` does not exist, or shipped folds separate scans
            of one declared subject.
    """
    cases = dataset.cases.get("train", ())
    if shipped := dataset.cases.get("val", ()):
        splits = _shipped(dataset, spec, shipped)
    elif spec.fold is not None and dataset.folds:
        splits = _shipped_fold(dataset, spec.fold)
    else:
        chosen = _chosen_groups(dataset, sorted({case.group for case in cases}), spec)
        splits = Splits(
            train=tuple(case for case in cases if case.group not in chosen),
            val=tuple(case for case in cases if case.group in chosen),
        )
    for side, members in (("training", splits.train), ("validation", splits.val)):
        if not members:
            raise InputError(
                f"the {side} side is empty: {len(cases)} training cases of "
                f"{len({case.group for case in cases})} subjects",
                path=dataset.root,
                fix="at least two subjects are needed, or train/ and val/ folders with cases",
                code="empty_split",
            )
    return splits


def _shipped(dataset: Dataset, spec: SplitSpec, val: tuple[Case, ...]) -> Splits:
    if spec.fold is not None:
        raise InputError(
            f"fold={spec.fold} was asked for, but the data set ships its own validation cases",
            path=dataset.root,
            fix="leave fold out, or merge the validation folder into the training folder",
            option="fold",
        )
    return Splits(train=dataset.cases.get("train", ()), val=val)


def _shipped_fold(dataset: Dataset, fold: int) -> Splits:
    _check_fold(dataset, fold, len(dataset.folds))
    train_ids, val_ids = dataset.folds[fold]
    train = tuple(case for case in dataset.cases["train"] if case.id in train_ids)
    val = tuple(case for case in dataset.cases["train"] if case.id in val_ids)
    shared = {case.group for case in train} & {case.group for case in val}
    if dataset.is_grouped and shared:
        raise InputError(
            f"fold {fold} has subjects on both sides ({shorten(sorted(shared))})",
            path=dataset.root,
            fix="correct splits_final.json or group_by",
            code="group_leak",
            option="group_by",
        )
    return Splits(train=train, val=val)


def _chosen_groups(dataset: Dataset, groups: Sequence[str], spec: SplitSpec) -> frozenset[str]:
    # ordered by a hash: independent of file order, and one new subject moves few others
    ordered = sorted(
        groups, key=lambda name: hashlib.sha256(f"{spec.seed}:{name}".encode()).digest()
    )
    if spec.fold is not None:
        _check_fold(dataset, spec.fold, spec.folds)
        return frozenset(ordered[spec.fold :: spec.folds])
    count = min(max(1, round(spec.fraction * len(ordered))), len(ordered))
    return frozenset(ordered[:count])


def _check_fold(dataset: Dataset, fold: int, folds: int) -> None:
    if fold >= folds:
        raise InputError(
            f"fold {fold} does not exist; there are {folds}",
            path=dataset.root,
            fix=f"choose 0 to {folds - 1}",
            option="fold",
        )
