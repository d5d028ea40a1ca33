"""Losses against numbers of the original implementations and against their definitions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.losses import (
    DDSam2Loss,
    DiceBCE,
    DiceCE,
    FocalDice,
    IMedSamLoss,
    SamAdapterLoss,
    class_masks,
    iou_head_loss,
)

Loss = Callable[[Tensor, Tensor], Tensor]


def wave(*shape: int) -> Tensor:
    """Logits of the golden values: sin(0.7 k + 0.5), k counting in row-major order."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.7 * k + 0.5).reshape(shape)


def every_third(*shape: int) -> Tensor:
    return (torch.arange(math.prod(shape)) % 3 == 0).reshape(shape)


@pytest.mark.parametrize(
    ("loss", "golden", "tolerance"),
    [
        (IMedSamLoss(compat="authors"), 0.4997705322, 1e-10),
        (DDSam2Loss(compat="authors"), 1.2174209372, 1e-10),
        (DDSam2Loss(), 1.1869052, 1e-7),  # known to seven decimals
        (SamAdapterLoss("iou", compat="authors"), 1.4879556250, 1e-10),
        (SamAdapterLoss("iou"), 1.4879556250, 1e-7),  # smoothed by 1e-6
        (SamAdapterLoss("bbce"), 0.3371939053, 1e-10),
    ],
)
def test_golden_values_of_mask_losses(loss: Loss, golden: float, tolerance: float) -> None:
    value = loss(wave(1, 1, 8, 8), every_third(1, 1, 8, 8))
    assert value.item() == pytest.approx(golden, abs=tolerance)


@pytest.mark.parametrize(
    ("weights", "golden"),
    [((0.5, 0.5), 0.6579974977), ((1, 0), 0.5875168053), ((0, 1), 0.7284781900)],
)
def test_dice_ce_is_the_loss_of_3dsam_adapter(weights: tuple[float, float], golden: float) -> None:
    logits, target = wave(1, 2, 4, 4, 4), every_third(1, 4, 4, 4).long()
    # only differences of logits count, so a background of logit 0 loses nothing
    loss = DiceCE(dice=weights[0], ce=weights[1], pooled=False)
    assert loss(logits[:, 1:] - logits[:, :1], target).item() == pytest.approx(golden, abs=1e-10)


def test_imedsam_moves_from_coarse_to_fine_in_five_epochs() -> None:
    loss, target = IMedSamLoss(), every_third(2, 1, 8, 8)
    coarse, fine = wave(2, 1, 8, 8), -wave(2, 1, 8, 8)
    a, b = loss(coarse, target), loss(fine, target)
    for epoch, share in [(0, 0.2), (3, 0.8), (4, 1.0), (40, 1.0)]:
        expected = (1 - share) * a + share * b
        torch.testing.assert_close(loss.mixed(coarse, fine, target, epoch=epoch), expected)


def test_dice_bce_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 2.0, -1.0, 3.0]]]], dtype=torch.float64)
    target = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]], dtype=torch.float64)
    p = logits.sigmoid()
    dice = 1 - (2 * p[0, 0, 0, 1] + 1e-5) / (p.sum() + 1 + 1e-5)
    # one positive against three negatives: it weighs 3, all weigh 6
    terms = torch.where(target > 0, -3 * p.log(), -(1 - p).log())
    torch.testing.assert_close(
        DiceBCE(max_positive_weight=10)(logits, target), dice + terms.sum() / 6
    )
    plain = DiceBCE(dice=0)(logits, target)
    torch.testing.assert_close(plain, torch.where(target > 0, -p.log(), -(1 - p).log()).mean())


def test_dice_bce_weighs_each_mask_alone() -> None:
    logits, target = wave(2, 3, 8, 8), every_third(2, 3, 8, 8)
    target[0, 0] = False
    target[1, 2, 1:] = False
    loss = DiceBCE(max_positive_weight=10)
    each = [
        loss(logits[i, j][None, None], target[i, j][None, None]) for i in (0, 1) for j in (0, 1, 2)
    ]
    torch.testing.assert_close(loss(logits, target), torch.stack(each).mean())


def test_pooled_dice_ignores_which_image_holds_the_class() -> None:
    logits, target = wave(2, 1, 6, 6), torch.zeros(2, 6, 6, dtype=torch.long)
    target[0, :3] = 1
    pooled = DiceCE(ce=0)(logits, target)
    as_one = DiceCE(ce=0, pooled=False)(
        torch.cat([*logits], dim=1)[None], torch.cat([*target], dim=0)[None]
    )
    torch.testing.assert_close(pooled, as_one)


MASK_LOSSES = [
    DiceBCE(),
    DiceBCE(max_positive_weight=10),
    FocalDice(),
    DDSam2Loss(),
    DDSam2Loss(compat="authors"),
    IMedSamLoss(),
    *(SamAdapterLoss(kind) for kind in ("iou", "bbce", "bce")),
]


@pytest.mark.parametrize("loss", MASK_LOSSES)
@pytest.mark.parametrize("fill", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 200.0])
def test_mask_losses_are_finite_on_empty_and_full_targets(
    loss: Loss, fill: float, scale: float
) -> None:
    logits = (wave(2, 2, 8, 8).float() * scale).requires_grad_()
    value = loss(logits, torch.full((2, 2, 8, 8), fill))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "loss", [loss for loss in MASK_LOSSES if getattr(loss, "compat", 0) != "authors"]
)
def test_mask_losses_vanish_on_the_perfect_mask(loss: Loss) -> None:
    target = every_third(2, 1, 8, 8)
    assert loss(torch.where(target, 40.0, -40.0), target).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("pooled", [True, False])
def test_dice_ce_is_finite_without_foreground_and_learns(pooled: bool) -> None:
    logits = wave(2, 3, 8, 8).float().requires_grad_()
    loss = DiceCE(pooled=pooled)
    value = loss(logits, torch.zeros(2, 8, 8, dtype=torch.long))
    value.backward()
    assert torch.isfinite(value)
    assert (logits.grad > 0).all()  # less of every class


def test_focal_dice_by_hand() -> None:
    logits, target = wave(1, 1, 8, 8), every_third(1, 1, 8, 8)
    p = logits.sigmoid()
    right = torch.where(target, p, 1 - p)
    focal = (torch.where(target, 0.25, 0.75) * (1 - right) ** 2 * -right.log()).mean()
    torch.testing.assert_close(FocalDice(focal=1, dice=0)(logits, target), focal)


def test_class_masks_are_disjoint_and_leave_the_background() -> None:
    logits = torch.tensor([[[1.0, -1.0, 2.0, 0.0]], [[2.0, -2.0, 1.0, 0.0]]])[None]
    assert class_masks(logits).int().tolist() == [[[[0, 0, 1, 0]], [[1, 0, 0, 0]]]]


def test_iou_head_loss_counts_masks_and_defines_empty() -> None:
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]]).view(1, 2, 1, 4)
    target = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]]).view(1, 2, 1, 4).bool()
    predicted = torch.tensor([[1 / 3, 0.5]], requires_grad=True)
    loss = iou_head_loss(predicted, logits, target)
    assert loss.item() == pytest.approx(0.5**2 / 2)
    loss.backward()
    assert predicted.grad[0, 1] < 0  # towards 1


def test_iou_head_loss_reads_class_maps() -> None:
    logits = torch.tensor([[3.0, 1.0, -1.0, -1.0], [1.0, 2.0, -1.0, 4.0]]).view(1, 2, 1, 4)
    target = torch.tensor([[[1, 1, 0, 2]]])  # class 1: IoU 1/2, class 2: IoU 1/2
    assert iou_head_loss(torch.full((1, 2), 0.5), logits, target).item() == pytest.approx(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiceBCE(dice=0, bce=0), "not all 0, got .*'dice': 0"),
        (lambda: DiceCE(ce=-1), "must be >= 0"),
        (lambda: DiceBCE(max_positive_weight=0.5), "max_positive_weight must be >= 1, got 0.5"),
        (lambda: SamAdapterLoss("dice"), "kind must be one of .*got 'dice'"),
        (lambda: IMedSamLoss(compat="paper"), "compat must be None or 'authors', got 'paper'"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
