"""First layer of a continuous field (I-MedSAM): reference and dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.kernels.dispatch import Impl, at_compute_type, relative_error, sample, use_triton

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float, Int

Layer = tuple[Tensor, Tensor]
"""Weight and bias."""


def sampled(
    maps: Float[Tensor, "n c *size"], points: Float[Tensor, "points axes"]
) -> Float[Tensor, "n points c"]:
    """Values of maps at positions, linear between cell centres, constant beyond the outer ones.

    Positions are in array order, from -1 at the first edge to 1 at the last. On flat maps a depth
    among them is ignored.
    """
    axes = maps.ndim - 2
    # coordinates in the order of the function: column first
    grid = points[:, -axes:].flip(-1).to(maps).view(*(1,) * axes, len(points), axes)
    grid = grid.expand(len(maps), *grid.shape[1:])
    values = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    return values.flatten(2).transpose(1, 2)


def reference(
    cells: Float[Tensor, "n c *size"],
    positions: Float[Tensor, "1 c0 *size0"] | None,
    points: Float[Tensor, "points axes"],
    dense: Float[Tensor, "points codes"],
    layer: Layer,
    owner: Int[Tensor, " points"] | None = None,
) -> Float[Tensor, ...]:
    """Definition: a linear layer of [cells, positions, dense] at each point.

    Every object is read at every point, [n points out]; with `owner`, point p reads object owner[p]
    alone, [points out]. The layer is linear: what it makes of positions and `dense` is computed
    once for all objects.
    """
    weight, bias = layer
    channels = cells.shape[1]
    common = dense
    if positions is not None:
        common = torch.cat([sampled(positions, points)[0], dense], dim=1)
    common = F.linear(common, weight[:, channels:], bias)
    features = sampled(cells, points)
    if owner is not None:
        features = features[owner, torch.arange(len(points), device=owner.device)]
    return F.linear(features, weight[:, :channels]) + common


def field_layer(
    cells: Float[Tensor, "n c *size"],
    positions: Float[Tensor, "1 c0 *size0"] | None,
    points: Float[Tensor, "points axes"],
    dense: Float[Tensor, "points codes"],
    layer: Layer,
    owner: Int[Tensor, " points"] | None = None,
    *,
    impl: Impl = "auto",
) -> Float[Tensor, ...]:
    """Compute `reference`, fused where possible: samples are never stored.

    The fused form reads positions of points in float32 whatever the type of the maps, and keeps
    its inputs alone for the backward pass.

    Raises:
        ValueError: `impl="triton"` where it cannot run, with the reason.
    """
    kept = at_compute_type(cells, dense, *layer)
    obstacle = why_not(cells, positions, points)
    if not use_triton(impl, cells, *kept, check=self_check, obstacle=obstacle):
        return reference(cells, positions, points, dense, layer, owner)
    from segkit.kernels.triton.field import field_layer as fused

    rows = fused(*_inputs(cells, positions, points), kept[0], owner, *kept[1:], "none")
    return rows if owner is not None else rows.unflatten(0, (len(cells), -1))


def field_layers(
    cells: Float[Tensor, "n c *size"],
    positions: Float[Tensor, "1 c0 *size0"] | None,
    points: Float[Tensor, "points axes"],
    dense: Float[Tensor, "points codes"],
    layers: tuple[Layer, ...],
    owner: Int[Tensor, " points"] | None = None,
    *,
    impl: Impl = "auto",
) -> Float[Tensor, "rows _"]:
    """Several layers with ReLU after each, without gradients; rows as `field_layer` flattened.

    Raises:
        ValueError: Gradients are recorded, or `impl="triton"` where it cannot run.
    """
    if torch.is_grad_enabled():
        raise ValueError("field_layers has no gradient; call it under torch.no_grad()")
    dense, *weights = at_compute_type(cells, dense, *(part for one in layers for part in one))
    obstacle = why_not(cells, positions, points)
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    if not use_triton(impl, cells, dense, *weights, check=self_check, obstacle=obstacle):
        x = reference(cells, positions, points, dense, pairs[0], owner).flatten(0, -2).relu()
        for weight, bias in pairs[1:]:
            x = F.linear(x, weight, bias).relu()
        return x
    from segkit.kernels.triton.field import dense_layer
    from segkit.kernels.triton.field import field_layer as fused

    x = fused(*_inputs(cells, positions, points), dense, owner, *pairs[0], "relu")
    for weight, bias in pairs[1:]:
        x = dense_layer(x, weight, bias, "relu")
    return x


def folded(linear: torch.nn.Linear, norm: torch.nn.BatchNorm1d) -> Layer:
    """One layer that does what a linear layer and a norm with fixed statistics do."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return linear.weight * scale[:, None], (linear.bias - mean) * scale + norm.bias


def is_fused(
    cells: Tensor, positions: Tensor | None, points: Tensor, dense: Tensor, layer: Layer
) -> bool:
    """Whether "auto" takes the fused form of these inputs."""
    kept = at_compute_type(cells, dense.to(cells.dtype), *layer)
    obstacle = why_not(cells, positions, points)
    return use_triton("auto", cells, *kept, check=self_check, obstacle=obstacle)


def why_not(cells: Tensor, positions: Tensor | None, points: Tensor) -> str:
    """What stands in the way of the fused form, besides types and devices; empty if nothing."""
    if points.requires_grad:
        return "points must not require gradients"
    maps = [one for one in (cells, positions) if one is not None]
    if torch.are_deterministic_algorithms_enabled() and any(one.requires_grad for one in maps):
        return "gradients of maps are added atomically, and deterministic ones are asked for"
    sizes = {one.ndim for one in maps}
    return "" if len(sizes) == 1 and sizes <= {4, 5} else f"maps must have 2 or 3 axes, got {sizes}"


def _inputs(
    cells: Tensor, positions: Tensor | None, points: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Maps with channels last, points in float32 with the axes of the maps."""
    axes = cells.ndim - 2
    last = None if positions is None else positions[:1].movedim(1, -1)
    return cells.movedim(1, -1), last, points[:, -axes:].float()


def self_check(device: torch.device, dtype: torch.dtype) -> float:
    """Relative error of the fused form on a small input."""
    shapes = ((2, 5, 4, 3), (1, 6, 2, 5), (7, 4), (8, 15), (8,))
    inputs = sample(shapes, device, dtype)
    cells, positions, dense, weight, bias = inputs
    points = torch.linspace(-1.1, 0.9, 14, device=device).view(7, 2)
    got = field_layer(cells, positions, points, dense, (weight, bias), impl="triton")
    # positions of points are rounded in the plain form, but not in the fused one
    c, p, d, w, b = (x.double() for x in inputs)
    return relative_error(got, reference(c, p, points, d, (w, b)), inputs)
