"""Marks drawn as logits: geometry, order, padding, batches."""

import numpy as np
import pytest
import torch
from torch import Tensor

from segkit.prompts.drawing import FRESH, LIMIT, draw_marks, first_logits
from segkit.prompts.simulate import box_from_mask, first_click

CELL = 4.0


def marks(*points: tuple[float, float, int]) -> tuple[Tensor, Tensor]:
    """One object from (row, column, label)."""
    place = torch.tensor([[[0.0, row, col] for row, col, _ in points]]).reshape(1, -1, 3)
    return place, torch.tensor([[label for _, _, label in points]]).reshape(1, -1)


@pytest.mark.parametrize("box", [(8, 12, 39, 55), (0, 0, 95, 63), (21, 17, 30, 60)])
def test_a_box_is_its_ellipse(box: tuple[int, int, int, int]) -> None:
    """The outline is right to half a mask pixel: only pixels it crosses may differ."""
    top, left, bottom, right = box
    drawn = draw_marks(*marks((top, left, 2), (bottom, right, 3)), (24, 16), CELL)[0, 0] > 0
    rows, cols = np.ogrid[:96, :64]
    down = (rows - (top + bottom) / 2) / ((bottom - top + 1) / 2)
    across = (cols - (left + right) / 2) / ((right - left + 1) / 2)
    inside = torch.from_numpy(down**2 + across**2 <= 1).float()
    share = torch.nn.functional.avg_pool2d(inside[None], 4)[0]
    assert drawn[share == 1].all()
    assert not drawn[share == 0].any()
    assert (drawn == (share > 0.5))[(share - 0.5).abs() > 0.2].all()


def test_slope_is_a_distance() -> None:
    """Along the axes of a large ellipse one mask pixel changes the logit by the slope."""
    row = draw_marks(*marks((0, 0, 2), (255, 255, 3)), (64, 64), CELL)[0, 0, 32]
    torch.testing.assert_close(row[0], torch.tensor(1.5), atol=0.05, rtol=0)
    assert row[2:-2].min() == row.max() == LIMIT


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("place", [(0.0, 0.0), (10.0, 50.0), (63.0, 63.0), (33.4, 12.8)])
def test_a_click_is_a_blob_of_its_sign(label: int, place: tuple[float, float]) -> None:
    drawn = draw_marks(*marks((*place, label)), (16, 16), CELL)[0, 0]
    sign = 2 * label - 1
    peak = int((sign * drawn).argmax())
    assert abs(CELL * (peak // 16 + 0.5) - 0.5 - place[0]) <= CELL / 2
    assert abs(CELL * (peak % 16 + 0.5) - 0.5 - place[1]) <= CELL / 2
    assert 0.7 * LIMIT < sign * drawn.flatten()[peak] <= LIMIT
    assert (sign * drawn >= 0).all()
    far = torch.ones(16, 16, dtype=torch.bool)
    row, col = (int((value + 0.5) / CELL) for value in place)
    far[max(row - 5, 0) : row + 6, max(col - 5, 0) : col + 6] = False
    assert drawn[far].abs().max() < 1e-3


def test_clicks_are_painted_over_boxes_and_masks() -> None:
    click = (20.0, 20.0, 0)
    box = draw_marks(*marks((0, 0, 2), (63, 63, 3), click), (16, 16), CELL)[0, 0]
    earlier = torch.full((1, 1, 16, 16), 30.0)
    mask = draw_marks(*marks(click), (16, 16), CELL, earlier)[0, 0]
    for drawn in (box, mask):
        assert drawn[5, 5] < -2
        assert drawn[9, 9] == LIMIT


def test_an_earlier_mask_replaces_the_box() -> None:
    earlier = torch.linspace(-9, 9, 256).view(1, 1, 16, 16)
    points, labels = marks((0, 0, 2), (31, 31, 3))
    drawn = draw_marks(points, labels, (16, 16), CELL, earlier)
    torch.testing.assert_close(drawn, earlier.clamp(-LIMIT, LIMIT))
    both = draw_marks(
        points.expand(2, -1, -1), labels.expand(2, -1), (16, 16), CELL,
        earlier.expand(2, -1, -1, -1), torch.tensor([1.0, 0.0]),
    )  # fmt: skip
    assert torch.equal(both[0], drawn[0])
    assert torch.equal(both[1:], draw_marks(points, labels, (16, 16), CELL))


@pytest.mark.parametrize("count", [0, 3])
def test_padding_draws_nothing(count: int) -> None:
    points, labels = marks(*[(5.0, 5.0, -1)] * count)
    assert not draw_marks(points, labels, (8, 8), CELL).any()
    earlier = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw_marks(points, labels, (8, 8), CELL, earlier), earlier)


def test_objects_of_a_batch_do_not_see_each_other() -> None:
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(4, 64, 64, dtype=torch.bool)
    for index in range(4):
        masks[index, 5 * index : 30 + 8 * index, 3 * index : 20 + 9 * index] = True
    boxes, clicks = box_from_mask(masks, rng), first_click(masks, rng)
    points = torch.cat([boxes.points, clicks.points], 1)
    labels = torch.cat([boxes.labels, clicks.labels], 1)
    labels[1, :2], labels[2, 2] = -1, -1
    together = draw_marks(points, labels, (16, 16), CELL)
    for index in range(4):
        one = slice(index, index + 1)
        assert torch.equal(together[one], draw_marks(points[one], labels[one], (16, 16), CELL))


def test_a_box_of_one_pixel_and_a_bad_order_stay_finite() -> None:
    for corners in (((7, 7, 2), (7, 7, 3)), ((30, 30, 2), (4, 4, 3)), ((3, 3, 2),)):
        assert torch.isfinite(draw_marks(*marks(*corners), (16, 16), CELL)).all()
    assert not draw_marks(*marks((3, 3, 2)), (16, 16), CELL).any()


def test_nothing_leaves_the_device() -> None:
    """On the meta device any look at a value would fail."""
    points, labels = (tensor.to("meta") for tensor in marks((0, 0, 2), (9, 9, 3), (4, 4, 1)))
    assert draw_marks(points, labels, (16, 16), CELL).shape == (1, 1, 16, 16)


def test_fresh_drawings_weigh_more_than_earlier_masks() -> None:
    drawn = torch.linspace(-1, 1, 32).view(2, 1, 4, 4)
    mixed = first_logits(drawn, torch.tensor([1.0, 0.0]))
    assert torch.equal(mixed[:1], first_logits(drawn[:1], has_mask=True))
    assert torch.equal(mixed[1:], first_logits(drawn[1:], has_mask=False))
    assert torch.equal(mixed[1], FRESH * drawn[1])
    assert torch.equal(mixed[0], drawn[0])
