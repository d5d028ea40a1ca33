"""Prompts that look at tokens inside a bottleneck (DVPT): reference and dispatch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.kernels.dispatch import Impl, at_compute_type, relative_error, sample, use_triton

if TYPE_CHECKING:  # kernels run on machines that have torch and triton only
    from jaxtyping import Float

WIDEST = 64
"""Largest number of prompts, and of channels inside, that the fused form takes."""


def reference(
    tokens: Float[Tensor, "n tokens dim"],
    down: tuple[Float[Tensor, "inner dim"], Float[Tensor, " inner"]],
    prompts: Float[Tensor, "prompts inner"],
    up: tuple[Float[Tensor, "dim inner"], Float[Tensor, " dim"]],
    gate: Float[Tensor, " 1"],
) -> Float[Tensor, "n tokens dim"]:
    """Definition: tokens + gate up(what prompts saw of act(down(tokens)), told to each token).

    Prompts attend to tokens, then tokens to what the prompts found; one head, scale
    1 / sqrt(inner), act(x) = x sigmoid(1.702 x).
    """
    inner = F.linear(tokens, *down)
    inner = inner * torch.sigmoid(1.702 * inner)
    return tokens + gate * F.linear(seen(inner, prompts), *up)


def seen(
    inner: Float[Tensor, "n tokens inner"], prompts: Float[Tensor, "prompts inner"]
) -> Float[Tensor, "n tokens inner"]:
    """What each token hears of what the prompts saw."""
    scale = 1 / math.sqrt(inner.shape[-1])
    looks = (scale * prompts @ inner.transpose(1, 2)).softmax(-1)  # [n prompts tokens]
    answers = looks @ inner  # [n prompts inner]
    return (scale * inner @ answers.transpose(1, 2)).softmax(-1) @ answers


def prompted_bottleneck(
    tokens: Float[Tensor, "n tokens dim"],
    down: tuple[Float[Tensor, "inner dim"], Float[Tensor, " inner"]],
    prompts: Float[Tensor, "prompts inner"],
    up: tuple[Float[Tensor, "dim inner"], Float[Tensor, " dim"]],
    gate: Float[Tensor, " 1"],
    *,
    impl: Impl = "auto",
) -> Float[Tensor, "n tokens dim"]:
    """Compute `reference`, fused where possible.

    The fused form keeps tokens and the narrow features for the backward pass.

    Raises:
        ValueError: `impl="triton"` where it cannot run, with the reason.
    """
    weights = at_compute_type(tokens, *down, prompts, *up, gate)
    large = max(prompts.shape)
    obstacle = f"prompts and inner channels must be <= {WIDEST}, got {large}"
    if not use_triton(
        impl, tokens, *weights, check=self_check, obstacle=obstacle if large > WIDEST else ""
    ):
        return reference(tokens, down, prompts, up, gate)
    from segkit.kernels.triton.prompted import prompted

    return prompted(tokens, *weights)[0]


def self_check(device: torch.device, dtype: torch.dtype) -> float:
    """Relative error of the fused form on a small input."""
    shapes = ((2, 35, 12), (5, 12), (5,), (3, 5), (12, 5), (12,), (1,))
    inputs = sample(shapes, device, dtype)
    x, wd, bd, prompts, wu, bu, gate = inputs
    args = (x, (wd, bd), prompts, (wu, bu), gate)
    return relative_error(prompted_bottleneck(*args, impl="triton"), reference(*args), inputs)
