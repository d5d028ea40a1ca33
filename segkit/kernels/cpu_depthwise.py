"""Depthwise convolutions of kernel three on a CPU, channel-last, and their gradients.

Two of torch's gradients are slow and replaced by equal ones. That of the input is the convolution
with the turned kernel. That of a kernel is torch's for pictures and rate 1, where it is fast: on
the rate x rate pictures of every rate-th pixel for a dilated kernel, and one depth of the kernel at
a time for volumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float


def convolved(
    x: Float[Tensor, "n *size c"],
    weight: Float[Tensor, "c 1 *kernel"],
    bias: Float[Tensor, " c"] | None,
    rate: int = 1,
) -> Float[Tensor, "n *size c"]:
    """Convolution, dilated by `rate` and zero-padded to equal size."""
    call = F.conv2d if x.ndim == 4 else F.conv3d
    maps = x.movedim(-1, 1)
    made = call(maps, weight, bias, padding=rate, dilation=rate, groups=x.shape[-1])
    return made.movedim(1, -1)


def for_input(
    seed: Float[Tensor, "n *size c"], weight: Float[Tensor, "c 1 *kernel"], rate: int = 1
) -> Float[Tensor, "n *size c"]:
    """Gradient of the input, given that of the result."""
    return convolved(seed, weight.flip(*range(2, weight.ndim)), None, rate)


def for_weight(
    seed: Float[Tensor, "n *size c"],
    x: Float[Tensor, "n *size c"],
    weight: Float[Tensor, "c 1 *kernel"],
    rate: int = 1,
) -> Float[Tensor, "c 1 *kernel"]:
    """Gradient of the kernel, given that of the result and the input."""
    if x.ndim == 4:
        phases = _phases(x.shape[1], x.shape[2], rate)
        first, *others = (_of_pictures(seed[part], x[part], weight) for part in phases)
        made = sum(others, first)
    else:
        parts = [_of_depth(seed, x, weight, shift) for shift in (-1, 0, 1)]
        made = torch.stack(parts, dim=2)
    # as the weight lies in memory: distributed training expects it
    return made.flatten(1).view(weight.shape)


def _of_depth(
    seed: Float[Tensor, "n depth rows cols c"],
    x: Float[Tensor, "n depth rows cols c"],
    weight: Float[Tensor, "c 1 3 3 3"],
    shift: int,
) -> Float[Tensor, "c 1 3 3"]:
    """Share of the kernel that pairs a slice of the result with the input `shift` slices deeper."""
    depth = x.shape[1]
    if abs(shift) >= depth:
        return weight.new_zeros(weight[:, :, 0].shape)
    results = seed[:, max(0, -shift) : depth - max(0, shift)]
    inputs = x[:, max(0, shift) : depth - max(0, -shift)]
    return _of_pictures(results.flatten(0, 1), inputs.flatten(0, 1), weight[:, :, 0])


def _of_pictures(
    seed: Float[Tensor, "n rows cols c"],
    x: Float[Tensor, "n rows cols c"],
    weight: Float[Tensor, "c 1 3 3"],
) -> Float[Tensor, "c 1 3 3"]:
    made: Tensor = torch.ops.aten.convolution_backward(
        seed.movedim(-1, 1), x.movedim(-1, 1), weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0],
        x.shape[-1], [False, True, False],
    )[1]  # fmt: skip
    return made


def _phases(rows: int, cols: int, rate: int) -> Iterator[tuple[slice, ...]]:
    """Every `rate`-th row and column of pictures, from each start."""
    for row in range(min(rate, rows)):
        for col in range(min(rate, cols)):
            yield slice(None), slice(row, None, rate), slice(col, None, rate)
