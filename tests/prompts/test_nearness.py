"""Marks drawn into cells: clicks fade with distance, boxes leave the outside to the background."""

import pytest
import torch

from segkit.prompts.nearness import drawn_marks
from segkit.typing import Prompts

CELLS, STRIDE = (3, 4, 5), 4


def marks(points: list[list[float]], labels: list[int]) -> Prompts:
    return Prompts(torch.tensor([points]).reshape(1, -1, 3), torch.tensor([labels]).long())


def test_a_click_fades_with_the_distance_to_it() -> None:
    # the middle of cell (1, 2, 3)
    added, removed = drawn_marks(marks([[5.5, 9.5, 13.5]], [1]), CELLS, STRIDE, reach=2.0)
    assert added.shape == removed.shape == (1, 1, *CELLS)
    assert not removed.any()
    assert added[0, 0, 1, 2, 3] == 1
    assert added[0, 0, 1, 0, 3] == pytest.approx(0.5)
    assert added[0, 0, 0, 0, 0] == pytest.approx(1 / (1 + (1 + 4 + 9) / 4))


def test_the_nearest_click_of_a_label_counts_and_padding_does_not() -> None:
    near, far, other = [5.5, 9.5, 13.5], [1.5, 1.5, 1.5], [9.5, 1.5, 17.5]
    one, _ = drawn_marks(marks([near], [1]), CELLS, STRIDE, 2.0)
    added, removed = drawn_marks(marks([near, other, far], [1, 0, -1]), CELLS, STRIDE, 2.0)
    torch.testing.assert_close(added, one)
    assert removed[0, 0, 2, 0, 4] == 1
    both, _ = drawn_marks(marks([near, far], [1, 1]), CELLS, STRIDE, 2.0)
    alone, _ = drawn_marks(marks([far], [1]), CELLS, STRIDE, 2.0)
    torch.testing.assert_close(both, torch.maximum(one, alone))


def test_many_clicks_equal_few_of_them_repeated() -> None:
    points = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(0)) * 12
    few, _ = drawn_marks(Prompts(points, torch.ones(1, 3).long()), CELLS, STRIDE, 2.0)
    repeated = Prompts(points.repeat(1, 70, 1), torch.ones(1, 210).long())
    torch.testing.assert_close(drawn_marks(repeated, CELLS, STRIDE, 2.0)[0], few)


def test_outside_a_box_is_background_and_inside_open() -> None:
    # cells 1..2 by 0..1 by 1; its last axis covers three of the four voxels of cell 1
    box = marks([[4.0, 0.0, 5.0], [11.0, 7.0, 7.0]], [2, 3])
    added, removed = drawn_marks(box, CELLS, STRIDE, 2.0)
    expected = torch.zeros(CELLS)
    expected[1:3, 0:2, 1] = 0.75
    torch.testing.assert_close(added[0, 0], expected / 2)
    torch.testing.assert_close(removed[0, 0], 1 - expected / 2)


def test_objects_with_and_without_a_box_share_a_batch() -> None:
    points = torch.tensor([[[0.0, 0, 0], [11.0, 15, 19]], [[5.5, 9.5, 13.5], [0.0, 0, 0]]])
    labels = torch.tensor([[2, 3], [1, -1]])
    added, removed = drawn_marks(Prompts(points, labels), CELLS, STRIDE, 2.0)
    assert (removed[0] == 0.5).all()
    assert not removed[1].any()
    alone, _ = drawn_marks(Prompts(points[1:], labels[1:]), CELLS, STRIDE, 2.0)
    torch.testing.assert_close(added[1:], alone)


def test_a_mask_alone_draws_nothing() -> None:
    nothing = Prompts(torch.zeros(2, 0, 3), torch.zeros(2, 0).long())
    added, removed = drawn_marks(nothing, CELLS, STRIDE, 2.0)
    assert not added.any()
    assert not removed.any()
