"""Marks drawn as mask logits: what a prompt says about the mask before the image is looked at."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from segkit.typing import BOX_FIRST, BOX_LAST, NEGATIVE, POSITIVE

LIMIT = 4.0
"""Largest drawn logit: a chance of 98 %."""
SLOPE = 3.0
"""Logits per mask pixel across the outline of a box's ellipse."""
SPREAD = 1.0
"""Standard deviation of a click's blob, in mask pixels."""

FRESH = 2.0
"""Weight in the masks of a drawing without an earlier mask: the decoder has little to add yet."""


def first_logits(
    drawn: Float[Tensor, "objects 1 rows cols"], has_mask: Float[Tensor, " objects"] | bool = False
) -> Float[Tensor, "objects 1 rows cols"]:
    """Logits that masks start from: a drawing as it is with an earlier mask in it, else `FRESH`.

    The weight was chosen on generated validation pictures.
    """
    if isinstance(has_mask, bool):
        return drawn if has_mask else FRESH * drawn
    return drawn * (FRESH + (1 - FRESH) * has_mask).view(-1, 1, 1, 1)


def draw_marks(
    points: Float[Tensor, "objects points 3"],
    labels: Int[Tensor, "objects points"],
    shape: tuple[int, int],
    cell: float,
    masks: Float[Tensor, "objects 1 rows cols"] | None = None,
    has_mask: Float[Tensor, " objects"] | None = None,
) -> Float[Tensor, "objects 1 rows cols"]:
    """Draw marks as logits between -`LIMIT` and `LIMIT`; 0 says nothing.

    A box is the ellipse inscribed in it (its corners are pixels inside the box), positive inside; a
    click is a small blob of its sign, painted over everything else. Where an earlier mask is given
    it replaces the box. Nothing of this waits for the device.

    Args:
        points: marks (k, j, i) in pixels of the model input, pixel centres at integers.
        labels: kinds of the marks as in `Prompts`; padding draws nothing.
        shape: rows and columns of the drawing.
        cell: input pixels per drawn pixel.
        masks: logits of an earlier prediction.
        has_mask: 1 for the objects that have one; every object unless given.
    """
    rows, cols = (cell * (torch.arange(n, device=points.device) + 0.5) - 0.5 for n in shape)
    drawn = _ellipses(points, labels, (rows, cols), cell)
    if masks is not None:
        earlier = masks[:, 0].to(drawn).clamp(-LIMIT, LIMIT)
        share = 1.0 if has_mask is None else has_mask.view(-1, 1, 1)
        drawn = share * earlier + (1 - share) * drawn
    if not labels.shape[1]:
        return drawn[:, None]
    down = (rows - points[..., 1, None]) / (SPREAD * cell)
    right = (cols - points[..., 2, None]) / (SPREAD * cell)
    blobs = torch.exp(-0.5 * down**2)[..., None] * torch.exp(-0.5 * right**2)[..., None, :]
    is_click = (labels == POSITIVE) | (labels == NEGATIVE)
    weight, nearest = (blobs * is_click[..., None, None]).max(dim=1)
    signs = (2.0 * labels - 1)[..., None, None].expand_as(blobs).gather(1, nearest[:, None])[:, 0]
    return (drawn * (1 - weight) + LIMIT * weight * signs)[:, None]


def _ellipses(
    points: Tensor, labels: Tensor, axes: tuple[Tensor, Tensor], cell: float
) -> Float[Tensor, "objects rows cols"]:
    """Signed distance to the inscribed ellipse (to first order) as logits; 0 without a box."""
    is_first, is_last = labels == BOX_FIRST, labels == BOX_LAST
    first = (points[..., 1:] * is_first[..., None]).sum(1)
    last = (points[..., 1:] * is_last[..., None]).sum(1)
    centre, radius = (first + last) / 2, ((last - first + 1) / 2).clamp(min=0.5)
    down = ((axes[0] - centre[:, :1]) / radius[:, :1])[:, :, None]
    right = ((axes[1] - centre[:, 1:]) / radius[:, 1:])[:, None]
    distance = (down**2 + right**2).sqrt().clamp(min=1e-3)
    slope = ((down / radius[:, :1, None]) ** 2 + (right / radius[:, 1:, None]) ** 2).sqrt()
    inside = (1 - distance) * distance / slope.clamp(min=1e-6)  # in input pixels
    has_box = (is_first.any(1) & is_last.any(1))[:, None, None]
    return (SLOPE / cell * inside).clamp(-LIMIT, LIMIT) * has_box
