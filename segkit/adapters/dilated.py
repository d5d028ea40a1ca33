"""Depthwise-dilated adapter after each block (DD-SAM2)."""

from collections.abc import Sequence
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.base import Adapter, Compat, require_compat
from segkit.kernels.dilated import Branch, depthwise_gelu, dilated_bottleneck
from segkit.typing import BackboneSpec, Tokens

Topology = Literal["parallel", "serial"]


class DepthwiseDilated(Adapter):
    """Add depthwise convolutions at several dilation rates of the block output to the block output.

    Source: "Depthwise-Dilated Convolutional Adapters for Medical Object Tracking and Segmentation
    Using the Segment Anything Model 2" (2025, arXiv 2507.14613). Differences: the last projection
    starts at zero, so training starts from the frozen model (`compat="authors"`: default
    initialisation); the topology is an option, where the released ablation changes it together with
    the rates.

    `blocks` adapts only so many blocks (the paper: the first 6 of 12); None means all. They begin
    at block `start`: what the frozen blocks up to there compute can be kept in training.

    Example:
        >>> backbone = SamBackbone.tiny(partial(DepthwiseDilated, blocks=2, rates=(1, 2)))
        >>> sum(p.numel() for p in backbone.adapter.parameters())
        2784
    """

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        blocks: int | None = None,
        start: int = 0,
        rates: Sequence[int] = (1, 3),
        topology: Topology = "parallel",
        compat: Compat | None = None,
    ) -> None:
        super().__init__(spec)
        require_compat(compat)
        if not 0 <= start < len(spec.blocks):
            raise ValueError(f"start must be 0 to {len(spec.blocks) - 1}, got {start}")
        self.start, self.blocks = start, _count(blocks, len(spec.blocks) - start)
        self.layers = nn.ModuleList(
            DilatedBottleneck(block.dim_out, rates, topology, starts_at_zero=compat is None)
            for block in spec.blocks[start : start + self.blocks]
        )

    @property
    @override
    def untouched(self) -> int:
        return self.start + 1

    @override
    def after(self, index: int, tokens: Tokens, state: object) -> Tokens:
        place = index - self.start
        return self.layers[place](tokens) if 0 <= place < self.blocks else tokens


class DilatedBottleneck(nn.Module):
    """Pointwise, dilated depthwise 3x3, pointwise; GELU after each, half the width inside.

    "parallel" sums the rates, "serial" chains them with a residual each.
    """

    def __init__(
        self, dim: int, rates: Sequence[int], topology: Topology, *, starts_at_zero: bool
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"tokens must have a width >= 2, got {dim}")
        if not rates or min(rates) < 1:
            raise ValueError(f"dilation rates must be >= 1 and not empty, got {tuple(rates)}")
        if topology not in ("parallel", "serial"):
            raise ValueError(f"topology must be 'parallel' or 'serial', got {topology!r}")
        hidden = dim // 2
        self.topology = topology
        self.down = nn.Conv2d(dim, hidden, 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(hidden, hidden, 3, padding=rate, dilation=rate, groups=hidden)
            for rate in rates
        )
        self.up = nn.Conv2d(hidden, dim, 1)
        if starts_at_zero:
            # GELU(0) = 0 and GELU'(0) = 0.5: the identity, but not a dead start
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]

    @override
    def forward(self, tokens: Tokens) -> Tokens:
        """Edited tokens."""
        down, up = (
            (layer.weight.flatten(1), cast(Tensor, layer.bias)) for layer in (self.down, self.up)
        )
        branches = [
            Branch(conv.weight, conv.bias, conv.dilation[0])  # type: ignore[arg-type, index]
            for conv in self.branches
        ]
        if self.topology == "parallel":
            return dilated_bottleneck(tokens, down, branches, up)
        x = F.gelu(F.linear(tokens, *down)).permute(0, 3, 1, 2)
        for branch in branches:
            x = x + depthwise_gelu(x, branch.weight, branch.bias, branch.rate)
        return tokens + F.gelu(F.linear(x.permute(0, 2, 3, 1), *up))


def _count(blocks: int | None, available: int) -> int:
    if blocks is None:
        return available
    if not 1 <= blocks <= available:
        raise ValueError(f"blocks must be None or 1 to {available}, got {blocks}")
    return blocks
