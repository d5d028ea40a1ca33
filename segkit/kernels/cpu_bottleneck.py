"""The depthwise bottlenecks on a CPU in training: less kept for the backward pass, less done in it.

Kept are the input and the output of the first projection; what follows is computed again. A
depthwise convolution has two slow gradients in torch, which are replaced by equal ones: that of its
input is the convolution with the turned kernel, and that of a dilated kernel is the one of an
undilated kernel on the rate x rate pictures of every rate-th pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float

Linear = tuple[Tensor, Tensor]
"""Weight and bias."""

_CONVOLVE: dict[int, Callable[..., Tensor]] = {4: F.conv2d, 5: F.conv3d}


def is_for(*tensors: Tensor) -> bool:
    """Whether these tensors lie on a CPU and a backward pass will follow."""
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
    on_cpu = all(one.device.type == "cpu" for one in tensors)
    return learns and on_cpu and not torch.compiler.is_compiling()


def dilated(
    tokens: Float[Tensor, "n rows cols dim"],
    down: Linear,
    branches: Sequence[tuple[Tensor, Tensor, int]],
    up: Linear,
) -> Float[Tensor, "n rows cols dim"]:
    """Compute `segkit.kernels.dilated.reference`; branches are weight, bias and rate."""

    def rest(hidden: Tensor) -> Tensor:
        x = F.gelu(hidden).permute(0, 3, 1, 2)
        first, *others = (F.gelu(depthwise(x, *branch)) for branch in branches)
        mixed = sum(others, first).permute(0, 2, 3, 1)
        return F.gelu(F.linear(mixed, *up))

    return tokens + _recomputed(rest, F.linear(tokens, *down))


def spatial(
    volumes: Float[Tensor, "n depth rows cols dim"],
    down: Linear,
    conv: Linear,
    up: Linear,
    *,
    ends_with_relu: bool,
) -> Float[Tensor, "n depth rows cols dim"]:
    """Compute `segkit.kernels.spatial3d.reference`."""

    def rest(hidden: Tensor) -> Tensor:
        x = F.relu(depthwise(F.relu(hidden).permute(0, 4, 1, 2, 3), *conv))
        x = F.linear(x.permute(0, 2, 3, 4, 1), *up)
        return F.relu(x) if ends_with_relu else x

    return volumes + _recomputed(rest, F.linear(volumes, *down))


def _recomputed(rest: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Apply what draws no random numbers; keep its input alone for the backward pass."""
    made = checkpoint(rest, hidden, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(made, Tensor)
    return made


def depthwise(
    x: Float[Tensor, "n c *size"],
    weight: Float[Tensor, "c 1 *kernel"],
    bias: Float[Tensor, " c"],
    rate: int = 1,
) -> Float[Tensor, "n c *size"]:
    """Depthwise convolution, kernel of three dilated by `rate`, zero-padded to equal size."""
    # through a view: gradients then have the layout that distributed training expects
    weight = weight.flatten(1).unflatten(1, (1, *(3,) * (x.ndim - 2)))
    made: Tensor = _Depthwise.apply(x, weight, bias, rate)
    return made


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, rate: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rate = rate
        return _convolved(x, weight, bias, rate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), rate = ctx.saved_tensors, ctx.rate
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        turned = weight.flip(*range(2, weight.ndim))
        for_x = _convolved(seed, turned, None, rate) if needs_x else None
        for_weight = for_bias = None
        if needs_weight or needs_bias:
            for_weight, for_bias = _of_weights(seed, x, weight, rate)
        return for_x, for_weight, for_bias, None


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, rate: int) -> Tensor:
    call = _CONVOLVE[x.ndim]
    return call(x, weight, bias, padding=rate, dilation=rate, groups=x.shape[1])


def _of_weights(seed: Tensor, x: Tensor, weight: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    if rate > 1 and x.ndim == 4:
        seed, x, rate = _phases(seed, rate), _phases(x, rate), 1
    sides = [1] * (x.ndim - 2)
    wide = [rate] * (x.ndim - 2)
    _, for_weight, for_bias = torch.ops.aten.convolution_backward(
        seed, x, weight, [x.shape[1]], sides, wide, wide, False, [0] * len(sides), x.shape[1],
        [False, True, True],
    )  # fmt: skip
    return for_weight, for_bias


def _phases(x: Float[Tensor, "n c h w"], rate: int) -> Float[Tensor, "phases c rows cols"]:
    """Split a picture into those of every `rate`-th row and column; zeros fill up the last ones."""
    n, c, h, w = x.shape
    # channel-last in memory, as the convolution is fastest
    maps = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, -w % rate, 0, -h % rate))
    maps = maps.reshape(n, maps.shape[1] // rate, rate, -1, rate, c).permute(2, 4, 0, 1, 3, 5)
    return maps.reshape(-1, *maps.shape[3:]).permute(0, 3, 1, 2)
