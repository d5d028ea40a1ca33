from collections import Counter

import numpy as np
import pytest

from segkit.data.sampling import Draw, EpochSampler, derive_seed, slice_table
from segkit.errors import InputError

COUNTS = [np.array([0, 5, 0, 2]), np.array([0, 0, 0, 0, 0, 0]), np.array([3])]


def test_all_slices_in_order() -> None:
    table = slice_table(COUNTS)
    assert table[:5].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    assert len(table) == 11


def test_empty_slices_can_be_dropped() -> None:
    assert slice_table(COUNTS, "drop").tolist() == [[0, 1], [0, 3], [2, 0]]


def test_a_share_of_the_empty_slices_is_kept() -> None:
    table = slice_table(COUNTS, 0.25, seed=1)
    labelled = {(0, 1), (0, 3), (2, 0)}
    rows = [tuple(row) for row in table.tolist()]
    assert rows == sorted(rows)
    assert labelled < set(rows)
    assert len(rows) == 3 + 2
    assert table.tolist() == slice_table(COUNTS, 0.25, seed=1).tolist()
    assert any(table.tolist() != slice_table(COUNTS, 0.25, seed=s).tolist() for s in range(2, 6))


def test_the_ends_of_the_share_are_keep_and_drop() -> None:
    assert slice_table(COUNTS, 1.0).tolist() == slice_table(COUNTS, "keep").tolist()
    assert slice_table(COUNTS, 0.0).tolist() == slice_table(COUNTS, "drop").tolist()


def test_no_case_gives_no_slice() -> None:
    assert slice_table([]).shape == (0, 2)


@pytest.mark.parametrize("empty", ["none", 1.5, -0.1])
def test_rules_for_empty_slices_are_checked(empty: float) -> None:
    with pytest.raises(
        InputError, match=r"empty=.* is no rule.*allowed: 'keep', 'drop', or the sh"
    ):
        slice_table(COUNTS, empty)


def test_an_epoch_holds_each_sample_once() -> None:
    draws = list(EpochSampler(50, 3, 2))
    assert sorted(draw.index for draw in draws) == list(range(50))
    assert {draw.epoch for draw in draws} == {2}


def test_order_follows_seed_and_epoch() -> None:
    order = list(EpochSampler(50, 3, 2))
    assert order == list(EpochSampler(50, 3, 2))
    assert [d.index for d in order] != [d.index for d in EpochSampler(50, 3, 3)]
    assert [d.index for d in order] != [d.index for d in EpochSampler(50, 4, 2)]
    # this order must survive library updates, or a resumed run would differ
    assert [draw.index for draw in EpochSampler(8, 0, 0)] == [7, 3, 6, 0, 5, 1, 2, 4]


def test_the_rest_after_a_stop_is_the_rest_of_the_epoch() -> None:
    whole = list(EpochSampler(50, 3, 2))
    rest = EpochSampler(50, 3, 2, 20)
    assert list(rest) == whole[20:]
    assert len(rest) == 30
    assert list(EpochSampler(50, 3, 2, 50)) == []
    with pytest.raises(ValueError, match="start must be 0 to 50 samples, got 51"):
        EpochSampler(50, 3, 2, 51)


def test_processes_share_an_epoch_evenly() -> None:
    parts = [list(EpochSampler(10, 3, 2, rank=rank, ranks=4)) for rank in range(4)]
    assert [len(part) for part in parts] == [3, 3, 3, 3]
    seen = Counter(draw.index for part in parts for draw in part)
    assert set(seen) == set(range(10))
    assert sum(seen.values()) == 12
    with pytest.raises(ValueError, match="rank must be 0 to 1, got 2"):
        EpochSampler(10, 3, 2, rank=2, ranks=2)


def test_a_draw_has_a_name_for_each_part() -> None:
    assert Draw(2, 7).index == 7


def test_seeds_depend_on_each_part() -> None:
    seeds = {derive_seed(*parts) for parts in [(0, 0), (0, 1), (1, 0), (0, 0, 1), (-1, 0)]}
    assert len(seeds) == 5
