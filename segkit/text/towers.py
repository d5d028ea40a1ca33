"""Image encoders one can stop between two blocks: our loop over their blocks."""

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.errors import InputError
from segkit.typing import Image

Tokens = Float[Tensor, "n tokens dim"]


class ImageTower(ABC):
    """A vision transformer as start, blocks and end.

    Attributes:
        grid: Patches (rows, columns); the tokens behind `prefix` are these, row by row.
        prefix: Leading tokens that are no patches.
    """

    grid: tuple[int, int]
    prefix: int

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        """The blocks, first one first."""

    @abstractmethod
    def embed(self, pixels: Image) -> Tokens:
        """Tokens before the first block."""

    @abstractmethod
    def head(self, tokens: Tokens) -> Float[Tensor, "n features"]:
        """Image features from the tokens behind the last block; not normalised."""

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Send tokens through the blocks [start, stop)."""
        for index in range(start, stop):
            tokens = self.blocks[index](tokens)
        return tokens

    def __call__(self, pixels: Image) -> Float[Tensor, "n features"]:
        """Image features; not normalised."""
        return self.head(self.run(self.embed(pixels), 0, len(self.blocks)))


class ClipTower(ImageTower):
    """`open_clip.transformer.VisionTransformer`."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.grid, self.prefix = tuple(visual.grid_size), 1

    @property
    @override
    def blocks(self) -> nn.ModuleList:
        return self.visual.transformer.resblocks

    @override
    def embed(self, pixels: Image) -> Tokens:
        return self.visual._embeds(pixels)

    @override
    def head(self, tokens: Tokens) -> Float[Tensor, "n features"]:
        pooled, _ = self.visual._pool(tokens)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


class TimmTower(ImageTower):
    """A vision transformer of timm with the projection that `open_clip.timm_model` puts behind."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.grid = tuple(visual.trunk.patch_embed.grid_size)
        self.prefix = visual.trunk.num_prefix_tokens

    @property
    @override
    def blocks(self) -> nn.Sequential:
        return self.visual.trunk.blocks

    @override
    def embed(self, pixels: Image) -> Tokens:
        trunk = self.visual.trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))

    @override
    def head(self, tokens: Tokens) -> Float[Tensor, "n features"]:
        trunk = self.visual.trunk
        return self.visual.head(trunk.forward_head(trunk.norm(tokens)))


def tower_of(visual: nn.Module) -> ImageTower:
    """Wrap the image encoder of an `open_clip` model.

    Raises:
        InputError: It is no vision transformer, so there are no blocks to stop between.
    """
    if hasattr(visual, "transformer") and hasattr(visual, "_embeds"):
        return ClipTower(visual)
    trunk = getattr(visual, "trunk", None)
    if all(hasattr(trunk, name) for name in ("blocks", "patch_embed", "_pos_embed", "norm_pre")):
        return TimmTower(visual)
    raise InputError(
        f"text prompts need a vision transformer, got {type(visual).__name__}",
        fix="choose a ViT model, e.g. ViT-B-16 or a BiomedCLIP folder",
    )
