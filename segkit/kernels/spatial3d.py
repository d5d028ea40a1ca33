"""The 3D spatial bottleneck of 3DSAM-adapter: reference and dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.kernels import cpu_bottleneck
from segkit.kernels.dispatch import Impl, at_compute_type, relative_error, sample, use_triton

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float


def reference(
    volumes: Float[Tensor, "n depth rows cols dim"],
    down: tuple[Float[Tensor, "hidden dim"], Float[Tensor, " hidden"]],
    conv: tuple[Float[Tensor, "hidden 1 3 3 3"], Float[Tensor, " hidden"]],
    up: tuple[Float[Tensor, "dim hidden"], Float[Tensor, " dim"]],
    *,
    ends_with_relu: bool = False,
) -> Float[Tensor, "n depth rows cols dim"]:
    """Definition: volumes + [relu](up(relu(conv(relu(down(volumes))))))."""
    x = F.relu(F.linear(volumes, *down)).permute(0, 4, 1, 2, 3)
    # through a view: gradients then have the layout that distributed training expects
    weight = conv[0].flatten(1).unflatten(1, (1, 3, 3, 3))
    x = F.relu(F.conv3d(x, weight, conv[1], padding=1, groups=x.shape[1])).permute(0, 2, 3, 4, 1)
    x = F.linear(x, *up)
    return volumes + (F.relu(x) if ends_with_relu else x)


def spatial_bottleneck(
    volumes: Float[Tensor, "n depth rows cols dim"],
    down: tuple[Float[Tensor, "hidden dim"], Float[Tensor, " hidden"]],
    conv: tuple[Float[Tensor, "hidden 1 3 3 3"], Float[Tensor, " hidden"]],
    up: tuple[Float[Tensor, "dim hidden"], Float[Tensor, " dim"]],
    *,
    ends_with_relu: bool = False,
    impl: Impl = "auto",
) -> Float[Tensor, "n depth rows cols dim"]:
    """Compute `reference`, fused where possible.

    Raises:
        ValueError: `impl="triton"` where it cannot run, with the reason.
    """
    weights = at_compute_type(volumes, *down, *conv, *up)
    outer: cpu_bottleneck.Outer = "relu" if ends_with_relu else "none"
    if not use_triton(impl, volumes, *weights, check=self_check):
        if impl == "auto" and cpu_bottleneck.is_for(volumes, *down, *conv, *up):
            return cpu_bottleneck.bottleneck(volumes, down, [(*conv, 1)], up, "relu", outer)
        return reference(volumes, down, conv, up, ends_with_relu=ends_with_relu)
    from segkit.kernels.triton.bottleneck import bottleneck

    weight, bias = weights[2].flatten(1).T[None], weights[3][None]
    return bottleneck(volumes, *weights[:2], weight, bias, [1], *weights[4:], "relu", outer)


def self_check(device: torch.device, dtype: torch.dtype) -> float:
    """Relative error of the fused form on a small input."""
    shapes = ((1, 3, 4, 5, 8), (4, 8), (4,), (4, 1, 3, 3, 3), (4,), (8, 4), (8,))
    inputs = sample(shapes, device, dtype)
    x, wd, bd, wc, bc, wu, bu = inputs
    args = (x, (wd, bd), (wc, bc), (wu, bu))
    return relative_error(spatial_bottleneck(*args, impl="triton"), reference(*args), inputs)
