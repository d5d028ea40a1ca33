"""The depthwise-dilated bottleneck of DD-SAM2: reference and dispatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.kernels import cpu_bottleneck
from segkit.kernels.dispatch import Impl, at_compute_type, relative_error, sample, use_triton

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float

    from segkit.typing import Maps, Tokens


@dataclass(frozen=True, slots=True)
class Branch:
    """Depthwise 3x3 convolution, dilated by `rate` and zero-padded to equal size."""

    weight: Float[Tensor, "c 1 3 3"]
    bias: Float[Tensor, " c"]
    rate: int


def depthwise_gelu(
    x: Maps, weight: Float[Tensor, "c 1 3 3"], bias: Float[Tensor, " c"], rate: int
) -> Maps:
    """GELU of a depthwise 3x3 convolution, zero-padded to equal size."""
    # through a view: gradients then have the layout that distributed training expects
    weight = weight.flatten(1).unflatten(1, (1, 3, 3))
    return F.gelu(F.conv2d(x, weight, bias, padding=rate, dilation=rate, groups=x.shape[1]))


def reference(
    tokens: Tokens,
    down: tuple[Float[Tensor, "hidden dim"], Float[Tensor, " hidden"]],
    branches: Sequence[Branch],
    up: tuple[Float[Tensor, "dim hidden"], Float[Tensor, " dim"]],
) -> Tokens:
    """Definition: tokens + gelu(up(sum over branches of gelu(conv(gelu(down(tokens))))))."""
    x = F.gelu(F.linear(tokens, *down)).permute(0, 3, 1, 2)
    first, *others = (depthwise_gelu(x, b.weight, b.bias, b.rate) for b in branches)
    mixed = sum(others, first)
    return tokens + F.gelu(F.linear(mixed.permute(0, 2, 3, 1), *up))


def dilated_bottleneck(
    tokens: Tokens,
    down: tuple[Float[Tensor, "hidden dim"], Float[Tensor, " hidden"]],
    branches: Sequence[Branch],
    up: tuple[Float[Tensor, "dim hidden"], Float[Tensor, " dim"]],
    *,
    impl: Impl = "auto",
) -> Tokens:
    """Compute `reference`, fused where possible.

    The fused form keeps the input alone for the backward pass and computes the rest again.

    Raises:
        ValueError: `impl="triton"` where it cannot run, with the reason.
    """
    given = (*down, *(part for b in branches for part in (b.weight, b.bias)), *up)
    weights = at_compute_type(tokens, *given)
    if not use_triton(impl, tokens, *weights, check=self_check):
        if impl == "auto" and cpu_bottleneck.is_for(tokens, *given):
            parts = [(b.weight, b.bias, b.rate) for b in branches]
            return cpu_bottleneck.bottleneck(tokens, down, parts, up, "gelu", "gelu")
        return reference(tokens, down, branches, up)
    from segkit.kernels.triton.bottleneck import bottleneck

    first, last, convs = weights[:2], weights[-2:], weights[2:-2]
    weight = torch.stack([one.flatten(1).T for one in convs[::2]])
    bias = torch.stack(convs[1::2])
    rates = [b.rate for b in branches]
    volumes = tokens[:, None]  # pictures are volumes of one slice
    return bottleneck(volumes, *first, weight, bias, rates, *last, "gelu", "gelu")[:, 0]


def self_check(device: torch.device, dtype: torch.dtype) -> float:
    """Relative error of the fused form on a small input."""
    shapes = ((1, 5, 6, 8), (4, 8), (4,), (4, 1, 3, 3), (4,), (4, 1, 3, 3), (4,), (8, 4), (8,))
    inputs = sample(shapes, device, dtype)
    x, wd, bd, w1, b1, w3, b3, wu, bu = inputs
    args = (x, (wd, bd), (Branch(w1, b1, 1), Branch(w3, b3, 3)), (wu, bu))
    return relative_error(dilated_bottleneck(*args, impl="triton"), reference(*args), inputs)
