"""Validation Dice is a mean over cases, whatever the order of their slices."""

import pytest
import torch

from segkit.lightning.tally import CaseTally

MAPS = torch.tensor([[[1, 1, 0, 2]], [[1, 0, 0, 2]], [[0, 0, 0, 0]]])
TRUTH = torch.tensor([[[1, 0, 0, 2]], [[1, 1, 0, 0]], [[0, 0, 0, 2]]])


def test_slices_are_summed_per_case_before_cases_are_averaged() -> None:
    tally = CaseTally(2)
    tally.add(MAPS, TRUTH, ("a", "a", "b"), [0, 1, 0])
    # case a, class 1: 2 overlap, 3 + 3 pixels; class 2: 1 overlap, 2 + 1; case b: 1 and 0
    assert tally.dice() == pytest.approx([(2 * 2 / 6 + 1) / 2, (2 * 1 / 3 + 0) / 2])
    assert tally.cases == 2


def test_order_and_repeated_slices_change_nothing() -> None:
    one, two, three = CaseTally(2), CaseTally(2), CaseTally(2)
    one.add(MAPS, TRUTH, ("a", "a", "b"), [0, 1, 0])
    two.add(MAPS[1:], TRUTH[1:], ("a", "b"), [1, 0])
    three.add(MAPS[[0, 2]], TRUTH[[0, 2]], ("a", "b"), [0, 0])
    two.merge([three.counts])
    assert two.dice() == one.dice()


def test_empty_case_counts_as_perfect_and_no_case_is_an_error() -> None:
    tally = CaseTally(1)
    with pytest.raises(ValueError, match="is the validation set empty"):
        tally.dice()
    tally.add(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long(), ("a",), [0])
    assert tally.dice() == [1.0]
