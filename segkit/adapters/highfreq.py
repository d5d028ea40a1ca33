"""High-frequency prompts before each block (SAM-Adapter)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.base import Adapter, Compat, require_compat
from segkit.kernels.highpass import high_pass
from segkit.typing import BackboneSpec, Grid, Image, Tokens

Inner = Float[Tensor, "n rows cols inner"]
_AUTHORS = (32, 0.25)


class HighFrequency(Adapter):
    """Add to each block's input a prompt made of the high-pass image and the patch embedding.

    Source: "SAM Fails to Segment Anything? SAM-Adapter" (Chen et al., 2023, arXiv 2304.09148).
    Differences of the default: the embedding feature is a projection of the token vectors (the
    released code mixes tokens and channels before it); the shared up-projection starts at zero; the
    half-width of the removed frequencies follows each axis. `compat="authors"` restores all three,
    needs the authors' `ratio` and `rate`, and starts near the identity, not at it.

    `ratio` divides the width into that of the features, `rate` is the share of low frequencies
    removed.

    Example:
        >>> backbone = SamBackbone.tiny(partial(HighFrequency, ratio=8))
        >>> sum(p.numel() for p in backbone.adapter.parameters())
        1120
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
        self._check(spec, ratio, rate, compat)
        dim, self.rate, self.compat = spec.blocks[0].dim_in, rate, compat
        inner = dim // ratio
        self.up = nn.Linear(inner, dim)
        self.embedding = nn.Linear(dim, inner)
        self.light = nn.ModuleList(nn.Linear(inner, inner) for _ in spec.blocks)
        self.patches = nn.Conv2d(3, inner, spec.patch_size, stride=spec.patch_size)
        self._initialise()

    @override
    def prepare(self, image: Image, tokens: Tokens, grid: Grid) -> Inner:
        high = high_pass(image, self._half(image.shape[-2:])).to(tokens.dtype)
        return self.patches(high).permute(0, 2, 3, 1) + self.embedding(self._vectors(tokens))

    @override
    def before(self, index: int, tokens: Tokens, state: Any) -> Tokens:
        return tokens + self.prompt(index, state)

    def prompt(self, index: int, features: Inner) -> Tokens:
        """What is added to the input of block `index`."""
        return self.up(F.gelu(self.light[index](features)))

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
        for linear in (self.up, self.embedding, *self.light):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        fan_out = math.prod(self.patches.kernel_size) * self.patches.out_channels
        nn.init.normal_(self.patches.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]
        if self.compat is None:
            nn.init.zeros_(self.up.weight)

    @staticmethod
    def _check(spec: BackboneSpec, ratio: int, rate: float, compat: str | None) -> None:
        require_compat(compat)
        if compat and (ratio, rate) != _AUTHORS:
            raise ValueError(
                f"compat='authors' fixes ratio and rate to {_AUTHORS}, got {(ratio, rate)}"
            )
        widths = sorted({dim for block in spec.blocks for dim in (block.dim_in, block.dim_out)})
        if len(widths) > 1:
            raise ValueError(f"high-frequency prompts need blocks of one width, got {widths}")
        if not 1 <= ratio <= widths[0]:
            raise ValueError(f"ratio must be 1 to the width {widths[0]}, got {ratio}")
        if not 0 < rate < 1:
            raise ValueError(f"rate must be in (0, 1), got {rate}")
