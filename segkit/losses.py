"""Losses, and what the seed methods were trained with. Logits in, a scalar out.

Two layouts: *masks*, logits and targets `[n masks ...]`, each mask on its own (interactive mode);
*class maps*, logits `[n classes ...]` for the classes 1, 2, ... with a background of logit 0, and a
target `[n ...]` of class numbers (automatic mode). All are finite on empty targets.

`compat="authors"` reproduces released code, where it differs from what is sound.
"""

from typing import Literal, get_args

import segkit.torchvision_compat  # noqa: F401

# isort: split
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from monai.losses import DiceCELoss, DiceLoss, FocalLoss
from torch import Tensor, nn
from typing_extensions import override

Compat = Literal["authors"] | None
SamAdapterKind = Literal["iou", "bbce", "bce"]


class DiceBCE(nn.Module):
    """Weighted sum of Dice and binary cross-entropy, per mask, then averaged.

    Dice is 1 - (2 sum(pt) + 1e-5) / (sum(p) + sum(t) + 1e-5), with p and t squared in the
    denominator if `squared`. The cross-entropy is a plain mean. With `max_positive_weight` above 1
    it is balanced: a positive pixel weighs as much as the negative ones it faces, but at most that
    (and no less than its inverse), normalised so that the scale does not depend on the size of the
    object. Small objects are then found sooner, and masks come out too large: pixels in doubt turn
    positive.

    Example:
        >>> loss = DiceBCE()
        >>> round(loss(torch.full((1, 1, 4, 4), -20.0), torch.zeros(1, 1, 4, 4)).item(), 2)
        0.0
    """

    def __init__(
        self,
        *,
        dice: float = 1.0,
        bce: float = 1.0,
        squared: bool = False,
        max_positive_weight: float = 1.0,
    ) -> None:
        super().__init__()
        _check_weights(dice=dice, bce=bce)
        if max_positive_weight < 1:
            raise ValueError(f"max_positive_weight must be >= 1, got {max_positive_weight}")
        self.weights = (dice, bce)
        self.max_positive_weight = max_positive_weight
        self.dice = DiceLoss(sigmoid=True, squared_pred=squared)

    @override
    def forward(self, logits: Float[Tensor, "n masks *size"], target: Tensor) -> Float[Tensor, ""]:
        target = target.to(logits.dtype)
        dice, bce = self.weights
        return dice * self.dice(logits, target) + bce * self._bce(logits, target)

    def _bce(self, logits: Tensor, target: Tensor) -> Tensor:
        positive = target.flatten(2).mean(-1).clamp(min=1e-9)
        ratio = (1 - positive) / positive
        ratio = ratio.clamp(1 / self.max_positive_weight, self.max_positive_weight)
        ratio = ratio.reshape(*ratio.shape, *(1,) * (target.ndim - 2))
        weight = 1 + (ratio - 1) * target
        loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
        return (loss.flatten(2).sum(-1) / weight.flatten(2).sum(-1)).mean()


class DiceCE(nn.Module):
    """Weighted sum of soft-max Dice without the background and cross-entropy, on class maps.

    `pooled` counts Dice per class over the whole batch, so that a class absent from one image
    does no harm; without it per image, as in 3DSAM-adapter, whose loss is
    `DiceCE(dice=0.5, ce=0.5, pooled=False)`.

    Example:
        >>> logits = torch.tensor([[[[-9.0, 9.0]]]])  # class 1 in the right of two pixels
        >>> round(DiceCE()(logits, torch.tensor([[[0, 1]]])).item(), 2)
        0.0
    """

    def __init__(self, *, dice: float = 1.0, ce: float = 1.0, pooled: bool = True) -> None:
        super().__init__()
        _check_weights(dice=dice, ce=ce)
        self.loss = DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=pooled,
            lambda_dice=dice,
            lambda_ce=ce,
        )

    @override
    def forward(
        self, logits: Float[Tensor, "n classes *size"], target: Int[Tensor, " n *size"]
    ) -> Float[Tensor, ""]:
        background = logits.new_zeros(len(logits), 1, *logits.shape[2:])
        return self.loss(torch.cat([background, logits], dim=1), target[:, None])


class FocalDice(nn.Module):
    """Focal loss and Dice in the proportion SAM was trained with, on masks.

    Source: "Segment Anything" (Kirillov et al., ICCV 2023), appendix A, with the focal loss of
    "Focal Loss for Dense Object Detection" (Lin et al., ICCV 2017), gamma 2 and alpha 0.25.
    """

    def __init__(self, *, focal: float = 20.0, dice: float = 1.0) -> None:
        super().__init__()
        _check_weights(focal=focal, dice=dice)
        self.weights = (focal, dice)
        self.focal = FocalLoss(gamma=2.0, alpha=0.25)
        self.dice = DiceLoss(sigmoid=True)

    @override
    def forward(self, logits: Float[Tensor, "n masks *size"], target: Tensor) -> Float[Tensor, ""]:
        target = target.to(logits.dtype)
        focal, dice = self.weights
        return focal * self.focal(logits, target) + dice * self.dice(logits, target)


class SamAdapterLoss(nn.Module):
    """The losses of SAM-Adapter, on masks.

    Source: "SAM Fails to Segment Anything?" (Chen et al., 2023), released code. "iou" is binary
    cross-entropy plus 1 - IoU of probabilities, "bbce" weighs both classes equally over the batch,
    "bce" is plain. Difference: IoU is smoothed by 1e-6, so that an empty mask of an empty target
    costs nothing; the authors' gives NaN.
    """

    def __init__(self, kind: SamAdapterKind = "iou", *, compat: Compat = None) -> None:
        super().__init__()
        if kind not in get_args(SamAdapterKind):
            raise ValueError(f"kind must be one of {get_args(SamAdapterKind)}, got {kind!r}")
        _check_compat(compat)
        self.kind = kind
        self.smooth = 0.0 if compat == "authors" else 1e-6

    @override
    def forward(self, logits: Float[Tensor, "n masks *size"], target: Tensor) -> Float[Tensor, ""]:
        target = target.to(logits.dtype)
        if self.kind == "bbce":
            positive = target.sum() + 1e-10
            negative = (1 - target).sum()
            loss = F.binary_cross_entropy_with_logits(
                logits, target, pos_weight=negative / positive
            )
            return loss * positive / (positive + negative)
        loss = F.binary_cross_entropy_with_logits(logits, target)
        return loss + self._iou(logits, target) if self.kind == "iou" else loss

    def _iou(self, logits: Tensor, target: Tensor) -> Tensor:
        p, t = logits.sigmoid().flatten(2), target.flatten(2)
        both = (p * t).sum(-1)
        either = (p + t).sum(-1) - both
        return (1 - (both + self.smooth) / (either + self.smooth)).mean()


class DDSam2Loss(DiceBCE):
    """The loss of DD-SAM2, on masks: squared Dice plus plain binary cross-entropy.

    Source: "DD-SAM2" (2025), released code. Difference: logits are used as logits; the authors
    apply the sigmoid twice, so that even a perfect mask costs about 0.5.
    """

    def __init__(self, *, compat: Compat = None) -> None:
        super().__init__(squared=True, max_positive_weight=1.0)
        _check_compat(compat)
        self.compat = compat

    @override
    def forward(self, logits: Float[Tensor, "n masks *size"], target: Tensor) -> Float[Tensor, ""]:
        return super().forward(logits.sigmoid() if self.compat else logits, target)


class IMedSamLoss(DiceBCE):
    """The loss of I-MedSAM, on masks: squared Dice and plain binary cross-entropy.

    Source: "I-MedSAM" (Wei et al., ECCV 2024). Both halves weigh 0.5, as in the paper; the
    authors' code weighs them 0.8 and 0.2 and divides by the batch size once more.
    """

    def __init__(self, *, compat: Compat = None) -> None:
        _check_compat(compat)
        dice, bce = (0.8, 0.2) if compat == "authors" else (0.5, 0.5)
        super().__init__(dice=dice, bce=bce, squared=True, max_positive_weight=1.0)
        self.compat = compat

    @override
    def forward(self, logits: Float[Tensor, "n masks *size"], target: Tensor) -> Float[Tensor, ""]:
        loss = super().forward(logits, target)
        return loss / len(logits) if self.compat else loss

    def mixed(
        self,
        coarse: Float[Tensor, "n masks *size"],
        fine: Float[Tensor, "n masks *size"],
        target: Tensor,
        *,
        epoch: int,
    ) -> Float[Tensor, ""]:
        """Move from the coarse to the fine map over the first five epochs (0, 1, ...)."""
        share = min((epoch + 1) / 5, 1.0)
        return (1 - share) * self(coarse, target) + share * self(fine, target)


def class_masks(logits: Float[Tensor, "n classes *size"]) -> Bool[Tensor, "n classes *size"]:
    """Return the winning class of each pixel as masks; background has logit 0 and wins ties."""
    best, index = logits.max(dim=1, keepdim=True)
    classes = torch.arange(logits.shape[1], device=logits.device)
    return (index == classes.view(-1, *(1,) * (logits.ndim - 2))) & (best > 0)


def iou_head_loss(
    predicted: Float[Tensor, "n masks"],
    logits: Float[Tensor, "n masks *size"],
    target: Tensor,
) -> Float[Tensor, ""]:
    """Mean squared error of predicted IoU; `target` is masks `[n masks ...]` or a class map.

    An empty prediction of an empty target has IoU 1. No gradient reaches the masks.
    """
    if target.ndim == logits.ndim - 1:
        masks = class_masks(logits)
        values = torch.arange(1, logits.shape[1] + 1, device=target.device)
        target = target[:, None] == values.view(-1, *(1,) * (logits.ndim - 2))
    else:
        masks, target = logits > 0, target.bool()
    both = (masks & target).flatten(2).sum(-1)
    either = (masks | target).flatten(2).sum(-1)
    actual = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    return F.mse_loss(predicted, actual.to(predicted.dtype))


def _check_weights(**weights: float) -> None:
    if min(weights.values()) < 0 or not any(weights.values()):
        raise ValueError(f"loss weights must be >= 0 and not all 0, got {weights}")


def _check_compat(compat: object) -> None:
    if compat not in (None, "authors"):
        raise ValueError(f"compat must be None or 'authors', got {compat!r}")
