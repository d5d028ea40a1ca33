from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.data.datasets import find_cases
from segkit.data.splits import Splits, SplitSpec, split_cases
from segkit.errors import InputError

Fill = Callable[..., None]


@pytest.fixture
def root(tmp_path: Path, pairs: Fill) -> Path:
    """Ten subjects with two scans each, and one test case."""
    pairs(tmp_path / "train", *(f"s{n:02d}_{side}" for n in range(10) for side in "ab"))
    pairs(tmp_path / "test", "t00_a")
    return tmp_path


def split(root: Path, spec: SplitSpec) -> Splits:
    return split_cases(find_cases(root, group_by="^([^_]+)"), spec)


def test_fraction_is_taken_of_the_subjects(root: Path) -> None:
    splits = split(root, SplitSpec(fraction=0.3))
    subjects = {case.group for case in splits.val}
    assert len(subjects) == 3
    assert len(splits.val) == 6
    assert not subjects & {case.group for case in splits.train}
    assert len(splits.train) + len(splits.val) == 20


def test_a_small_fraction_still_validates(root: Path) -> None:
    assert len({case.group for case in split(root, SplitSpec(fraction=0.01)).val}) == 1


def test_the_choice_follows_the_seed_alone(root: Path) -> None:
    first = split(root, SplitSpec(seed=1))
    assert split(root, SplitSpec(seed=1)) == first
    assert split(root, SplitSpec(seed=2)).val != first.val
    # the choice of today is the choice of tomorrow and of other machines
    assert sorted({case.group for case in first.val}) == ["s03", "s07"]


def test_folds_are_disjoint_and_cover_all_subjects(root: Path) -> None:
    sides = [split(root, SplitSpec(fold=fold, folds=4)).val for fold in range(4)]
    ids = [case.id for side in sides for case in side]
    assert len(ids) == len(set(ids)) == 20
    assert all(sides)


def test_no_test_case_reaches_a_trainer(root: Path) -> None:
    splits = split(root, SplitSpec())
    assert "t00_a" not in {case.id for case in splits.train + splits.val}
    assert set(Splits.__slots__) == {"train", "val"}


def test_empty_validation_is_refused(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path / "train", "s1_a", "s1_b")
    with pytest.raises(InputError, match="training side is empty: 2 training cases of 1 subjects"):
        split(tmp_path, SplitSpec())
    with pytest.raises(InputError, match="validation side is empty"):
        split(tmp_path, SplitSpec(fold=1))


def test_a_shipped_validation_folder_is_used(root: Path, pairs: Fill) -> None:
    pairs(root / "val", "v00_a")
    splits = split(root, SplitSpec(fraction=0.5))
    assert [case.id for case in splits.val] == ["v00_a"]
    assert len(splits.train) == 20
    with pytest.raises(InputError, match="fold=0 was asked for, but the data set ships its own"):
        split(root, SplitSpec(fold=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction must lie between 0 and 1, got 0.0"),
        ({"fraction": 1.0}, "fraction must lie between 0 and 1, got 1.0"),
        ({"folds": 1}, "folds must be >= 2, got 1"),
        ({"fold": -1}, "fold must be >= 0, got -1"),
    ],
)
def test_spec_faults(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SplitSpec(**options)  # type: ignore[arg-type]


def test_a_fold_that_does_not_exist(root: Path) -> None:
    with pytest.raises(InputError, match="fold 5 does not exist; there are 5; choose 0 to 4"):
        split(root, SplitSpec(fold=5))
