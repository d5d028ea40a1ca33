"""Marks drawn into the cells of a feature map: how near a click is, what a box leaves out."""

import torch
from jaxtyping import Float
from torch import Tensor

from segkit.typing import BOX_FIRST, BOX_LAST, NEGATIVE, POSITIVE, Prompts

Triple = tuple[int, int, int]
Shares = Float[Tensor, "objects 1 d h w"]

_AT_ONCE = 64
"""Clicks compared with all cells at once, so that memory does not grow with their number."""


@torch.no_grad()
def drawn_marks(
    prompts: Prompts, cells: Triple, stride: int, reach: float
) -> tuple[Shares, Shares]:
    """How much each cell is marked as object and as background, both from 0 to 1 per mark.

    A click counts 1 / (1 + (distance / `reach`)^2) for its label, distances to the nearest one in
    cells of `stride` voxels. Boxes count a half for both labels inside their union and 1 for the
    background outside; without a box they count nothing.
    """
    points, labels = prompts.points.float(), prompts.labels
    places = _centres(cells, points.device)
    near = [
        _nearness((points + 0.5) / stride, labels == kind, places, reach)
        for kind in (POSITIVE, NEGATIVE)
    ]
    inside = _inside(points, labels, cells, stride)
    if inside is None:
        return near[0], near[1]
    has_box = (labels == BOX_FIRST).any(1)[:, None, None, None, None]
    return near[0] + has_box * inside / 2, near[1] + has_box * (1 - inside / 2)


def _centres(cells: Triple, device: torch.device) -> Float[Tensor, "d h w 3"]:
    axes = [torch.arange(count, device=device) + 0.5 for count in cells]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _nearness(
    points: Float[Tensor, "objects points 3"],
    is_meant: Tensor,
    places: Float[Tensor, "d h w 3"],
    reach: float,
) -> Shares:
    nearest = points.new_full((len(points), places[..., 0].numel()), torch.inf)
    flat = places.flatten(0, 2)
    for some, chosen in zip(
        points.split(_AT_ONCE, dim=1), is_meant.split(_AT_ONCE, dim=1), strict=True
    ):
        # squares written out: the product form of cdist rounds
        far = (some[:, :, None] - flat).square().sum(-1)
        far = far.masked_fill(~chosen[:, :, None], torch.inf)
        if some.shape[1]:
            nearest = torch.minimum(nearest, far.amin(1))
    shares = 1 / (1 + nearest / reach**2)
    return shares.unflatten(1, places.shape[:3])[:, None]


def _inside(
    points: Float[Tensor, "objects points 3"], labels: Tensor, cells: Triple, stride: int
) -> Shares | None:
    """Share of each cell inside the boxes; None without any. Corners are inclusive voxels."""
    is_box = (labels[:, :-1] == BOX_FIRST) & (labels[:, 1:] == BOX_LAST)
    found: Shares | None = None
    for column in is_box.any(0).nonzero().flatten().tolist():
        share = points.new_ones(len(points), 1, *cells)
        for axis, count in enumerate(cells):
            # the edges of voxel n are n and n + 1 here, those of cell m are m and m + 1 strides
            low, high = points[:, column, axis, None], points[:, column + 1, axis, None] + 1
            start = torch.arange(count, device=points.device) * float(stride)
            common = torch.minimum(high, start + stride) - torch.maximum(low, start)
            shape = [len(points), 1, 1, 1, 1]
            shape[2 + axis] = count
            share = share * (common.clamp(min=0) / stride).reshape(shape)
        share = share * is_box[:, column, None, None, None, None]
        found = share if found is None else torch.maximum(found, share)
    return found
