"""High-frequency prompts before each block (SAM-Adapter)."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.base import Adapter, Compat, require_compat
from segkit.kernels.highpass import high_pass
from segkit.typing import BackboneSpec, Grid, Image, Maps, Tokens

Inner = Float[Tensor, "n rows cols inner"]
_AUTHORS = (32, 0.25)


class HighFrequency(Adapter):
    """Add to each block's input a prompt made of the high-pass image and the token embedding.

    Source: "SAM Fails to Segment Anything? SAM-Adapter" (Chen et al., 2023, arXiv 2304.09148), and
    its released branch for SAM 2 where widths change along the blocks: there one group of layers
    serves the blocks whose inputs have one width and stride, the image goes through overlapping
    convolutions from group to group, and what enters a group is embedded instead of the patches.

    Differences of the default: the embedding feature is a projection of the token vectors (the
    released code for SAM mixes tokens and channels before it); the up-projections start at zero;
    the half-width of the removed frequencies follows each axis; there are no idle layers.
    `compat="authors"` restores the first three, needs the authors' `ratio` and `rate`, and starts
    near the identity, not at it.

    `ratio` divides the width into that of the features, `rate` is the share of low frequencies
    removed.

    Example:
        >>> backbone = SamBackbone.tiny(partial(HighFrequency, ratio=8))
        >>> sum(p.numel() for p in backbone.adapter.parameters())
        1124
    """

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        ratio: int = 32,
        rate: float = 0.25,
        compat: Compat | None = None,
    ) -> None:
        super().__init__(spec)
        self.groups, widths, strides = _groups(spec)
        _check(min(widths), ratio, rate, compat)
        self.rate, self.compat = rate, compat
        self.is_pyramid = len(widths) > 1
        # a norm over one channel would always be zero
        least = 2 if self.is_pyramid else 1
        inner = [max(least, width // ratio) for width in widths]
        pairs = list(zip(widths, inner, strict=True))
        self.up = nn.ModuleList(nn.Linear(r, width) for width, r in pairs)
        self.embedding = nn.ModuleList(nn.Linear(width, r) for width, r in pairs)
        self.light = nn.ModuleList(nn.Linear(inner[g], inner[g]) for g in self.groups)
        self.patches = nn.ModuleList(self._patches(inner, strides))
        self._initialise()

    @override
    def prepare(self, image: Image, tokens: Tokens, grid: Grid) -> "_Levels":
        maps = high_pass(image, self._half(image.shape[-2:]), dtype=tokens.dtype)
        if not self.is_pyramid:
            features = self.patches[0](maps).permute(0, 2, 3, 1)
            embedded = self.embedding[0](self._vectors(tokens))
            return _Levels((features,), {0: embedded})
        levels: list[Tensor] = []
        for patches in self.patches:
            maps = patches(maps)
            levels.append(maps.permute(0, 2, 3, 1))
        return _Levels(tuple(levels), {})

    @override
    def before(self, index: int, tokens: Tokens, state: Any) -> Tokens:
        group = self.groups[index]
        if self.is_pyramid and index == self.groups.index(group):
            state.embedded[group] = self.embedding[group](tokens)
        return tokens + self.prompt(index, state.image[group] + state.embedded[group])

    def prompt(self, index: int, features: Inner) -> Tokens:
        """What is added to the input of block `index`."""
        return self.up[self.groups[index]](F.gelu(self.light[index](features)))

    def _patches(self, inner: list[int], strides: list[int]) -> list[nn.Module]:
        if not self.is_pyramid:
            return [nn.Conv2d(3, inner[0], strides[0], stride=strides[0])]
        steps = [strides[0], *(after // before for before, after in pairwise(strides))]
        channels = pairwise([3, *inner])
        return [_Overlapping(*pair, step) for pair, step in zip(channels, steps, strict=True)]

    def _half(self, size: torch.Size) -> tuple[int, int]:
        h, w = size
        if self.compat == "authors":
            return (int(math.sqrt(h * w * self.rate) // 2),) * 2
        return int(h * math.sqrt(self.rate) / 2), int(w * math.sqrt(self.rate) / 2)

    def _vectors(self, tokens: Tokens) -> Tokens:
        if self.compat is None:
            return tokens
        n, h, w, dim = tokens.shape
        # the released weights were trained with this reshape, which lacks a permutation
        return tokens.reshape(n, dim, h * w).transpose(1, 2).reshape(n, h, w, dim)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.compat is None:
            for up in self.up:
                nn.init.zeros_(up.weight)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Levels:
    """Features of the image, and of what entered each group so far, in one forward pass."""

    image: tuple[Inner, ...]
    embedded: dict[int, Inner]


class _Overlapping(nn.Module):
    """Convolution whose windows overlap by all but one step, and a norm over channels."""

    def __init__(self, dim_in: int, dim_out: int, step: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim_out, 2 * step - 1, stride=step, padding=step - 1)
        self.norm = nn.LayerNorm(dim_out)

    @override
    def forward(self, maps: Maps) -> Float[Tensor, "n inner rows cols"]:
        return self.norm(self.proj(maps).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _groups(spec: BackboneSpec) -> tuple[list[int], list[int], list[int]]:
    """Group of each block, and width and stride of the inputs of each group.

    A block that starts a stage still receives the tokens of the stage before.
    """
    groups: list[int] = []
    kinds: list[tuple[int, int]] = []
    stride = spec.blocks[0].stride
    for block in spec.blocks:
        if not kinds or kinds[-1] != (block.dim_in, stride):
            kinds.append((block.dim_in, stride))
        groups.append(len(kinds) - 1)
        stride = block.stride
    return groups, [width for width, _ in kinds], [stride for _, stride in kinds]


def _check(width: int, ratio: int, rate: float, compat: str | None) -> None:
    require_compat(compat)
    if compat and (ratio, rate) != _AUTHORS:
        raise ValueError(
            f"compat='authors' fixes ratio and rate to {_AUTHORS}, got {(ratio, rate)}"
        )
    if not 1 <= ratio <= width:
        raise ValueError(f"ratio must be 1 to the smallest width {width}, got {ratio}")
    if not 0 < rate < 1:
        raise ValueError(f"rate must be in (0, 1), got {rate}")
