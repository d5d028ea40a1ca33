"""SAM's image encoder lifted to volumes: frozen weights, three-dimensional windows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from segkit.backbones.base import Backbone
from segkit.backbones.sam import PIXEL_MEAN, PIXEL_STD
from segkit.backbones.sam3d_modules import SAM3D_TINY, Lift, LiftEncoder, LiftSizes, Volumes
from segkit.backbones.sam_modules import SamModules
from segkit.backbones.windows3d import WindowPlan, window_attention
from segkit.typing import BackboneSpec, Features, Grid, Image, Maps

Codes = Float[Tensor, "windows tokens codes"] | None


class Sam3dBackbone(Backbone):
    """SAM's ViT on volumes, with one adapter around its blocks.

    Source: "3DSAM-adapter" (Gong et al., Medical Image Analysis 2024, arXiv 2306.13465). The patch
    embedding, attention and MLPs of SAM stay frozen; `lift` holds what is trained beside the
    adapter: a depthwise convolution over slices, a depth embedding, the norms, relative positions
    along depth and one neck per feature level. All blocks attend inside windows, every other block
    inside shifted ones.

    Differences from the released code, equal results on its 128^3 patches with `compat="authors"`:
    any grid and any number of volumes (windows and masks follow the grid and are never stored);
    enlarging the volume, cutting patches and joining slices are linear, so they are one small
    convolution in the plane and one along depth; the lift starts from SAM instead of at random;
    tokens that only fill a window are not attended; images in [0, 1] are normalised as SAM's,
    or with `grey` (mean and standard deviation, both in units of [0, 1]).

    Volumes come as folded slices. Heights and widths must be multiples of the stride; any depth
    works. Features are, finest first, the grey volume at half a token per cell and the levels, all
    `[volumes c d h w]`; the last cells along depth may lie beyond the volume. Adapters see the
    slices of the token grid.

    Example:
        >>> backbone = Sam3dBackbone.tiny(Adapter)
        >>> features = backbone(torch.rand(16, 3, 32, 48), Grid((8, 32, 48)))
        >>> len(features.levels), features.levels[-1].shape
        (5, torch.Size([2, 32, 2, 8, 12]))
    """

    encoder: LiftEncoder
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoderViT,
        sizes: LiftSizes,
        adapter: Callable[[BackboneSpec], nn.Module],
        *,
        trainable: bool = False,
        checkpointing: bool = False,
        grey: Sequence[float] | None = None,
        compat: Literal["authors"] | None = None,
    ) -> None:
        if compat not in (None, "authors"):
            raise ValueError(f"compat must be None or 'authors', got {compat!r}")
        if grey is not None and (len(grey) != 2 or not grey[1] > 0):
            raise ValueError(f"grey must be (mean, standard deviation > 0), got {grey}")
        lift = Lift(image_encoder, sizes, is_random=compat is not None)
        super().__init__(
            LiftEncoder(image_encoder, sizes), sizes.spec, adapter, trainable=trainable
        )
        self.lift, self.sizes, self.checkpointing = lift, sizes, checkpointing
        mean, std = ((value,) * 3 for value in grey) if grey else _sam_colours()
        self.pad_value = mean
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @classmethod
    @override
    def tiny(cls, adapter: Callable[[BackboneSpec], nn.Module]) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = SamModules(SAM3D_TINY.sam).image_encoder
            for parameter in encoder.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.02)
        return cls(encoder, SAM3D_TINY, adapter)

    @property
    @override
    def trained_parts(self) -> dict[str, nn.Module]:
        return {"lift": self.lift, "adapter": self.adapter}

    @override
    def forward(self, image: Image, grid: Grid) -> Features:
        self._check(image, grid)
        volume = self._folded(self.normalise(image), grid.depth)  # [volumes depth 3 h w]
        tokens = self._embed(volume)
        depth, rows, cols = tokens.shape[1:4]
        state = self._prepare(volume, tokens, grid)
        tokens = tokens + self._positions(depth, (rows, cols))
        plans = [
            WindowPlan.of((depth, rows, cols), self.sizes.window, is_shifted=is_shifted)
            for is_shifted in (True, False)
        ]
        codes = [plan.codes(tokens.device) for plan in plans]
        levels = [self._grey(volume, (2 * depth, 2 * rows, 2 * cols))]
        for index in range(len(self.encoder.blocks)):
            run = partial(self._edited_block, index, plans[index % 2], codes[index % 2])
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(run, tokens, state, use_reentrant=False)
            else:
                tokens = run(tokens, state)
            if index in self.sizes.tapped:
                neck = self.lift.necks[self.sizes.tapped.index(index)]
                levels.append(neck(tokens.permute(0, 4, 1, 2, 3)))
        return Features(tuple(levels), grid)

    def normalise(self, image: Image) -> Image:
        """Bring values in [0, 1] to the mean and spread the model was trained with."""
        pixels = (image - self.pixel_mean) / self.pixel_std
        return pixels.to(self.encoder.patch_embed.proj.weight.dtype)

    def _edited_block(
        self, index: int, plan: WindowPlan, codes: Codes, tokens: Volumes, state: object
    ) -> Volumes:
        depth = tokens.shape[1]
        tokens = self.adapter.before(index, tokens.flatten(0, 1), state).unflatten(0, (-1, depth))
        frozen, own = cast(Any, self.encoder.blocks[index]), cast(Any, self.lift.blocks[index])
        seen = window_attention(frozen.attn, own.norm1(tokens), plan, own.rel_pos_d, codes)
        tokens = tokens + seen
        tokens = tokens + frozen.mlp(own.norm2(tokens))
        return self.adapter.after(index, tokens.flatten(0, 1), state).unflatten(0, (-1, depth))

    def _folded(self, image: Image, depth: int) -> Float[Tensor, "volumes depth 3 h w"]:
        """Slices by volume, filled with zeros, SAM's padding, to whole tokens."""
        volume = image.unflatten(0, (-1, depth))
        missing = -depth % self.sizes.stride
        return F.pad(volume, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else volume

    def _embed(self, volume: Float[Tensor, "volumes depth 3 h w"]) -> Volumes:
        """Enlarge trilinearly, cut SAM's patches and join slices: two convolutions in all.

        Linear steps commute. Kernel and enlargement are multiplied first, so neither the enlarged
        volume nor the embeddings of its slices ever exist.
        """
        stride, wide = self.sizes.stride, self.encoder.patch_embed.enlarge
        slices = self.encoder.patch_embed(volume.flatten(0, 1)).unflatten(0, volume.shape[:2])
        slices = torch.cat([slices[:, :1], slices, slices[:, -1:]], dim=1)
        taps = self.lift.slice_embed.weight.flatten(1).to(wide) @ wide  # [dim stride+2]
        length = volume.shape[1]
        tokens = cast(Tensor, self.lift.slice_embed.bias).expand_as(slices[:, :1])
        for tap in range(stride + 2):
            tokens = tokens + slices[:, tap : tap + length : stride] * taps[:, tap].to(slices)
        return tokens

    def _positions(self, depth: int, size: tuple[int, int]) -> Float[Tensor, "1 d h w dim"]:
        """SAM's position embedding in the plane, resized to the tokens, and the depth embedding."""
        plane = F.interpolate(
            self.encoder.pos_embed.permute(0, 3, 1, 2), size=size, mode="bilinear"
        )
        along: Tensor = self.lift.depth_embed
        if along.shape[1] != depth:
            along = F.interpolate(along.transpose(1, 2), size=depth, mode="linear").transpose(1, 2)
        return plane.permute(0, 2, 3, 1)[:, None] + along[:, :, None, None]

    def _prepare(
        self, volume: Float[Tensor, "volumes depth 3 h w"], tokens: Volumes, grid: Grid
    ) -> object:
        """Show adapters a stack of as many slices as there are tokens along depth."""
        depth, stride = tokens.shape[1], self.sizes.stride
        image = volume.unflatten(1, (depth, stride)).mean(2).flatten(0, 1)
        k, j, i = grid.spacing_mm
        coarse = Grid((depth, *grid.size), (k * stride, j, i))
        return self.adapter.prepare(image, tokens.flatten(0, 1), coarse)

    def _grey(
        self, volume: Float[Tensor, "volumes depth 3 h w"], size: tuple[int, int, int]
    ) -> Float[Maps, "..."]:
        return F.interpolate(volume.mean(2)[:, None], size=size, mode="trilinear")

    def _check(self, image: Image, grid: Grid) -> None:
        n, _, h, w = image.shape
        if h % (patch := self.spec.patch_size) or w % patch:
            raise ValueError(
                f"image height and width must be multiples of {patch}, got {h} x {w}; pad the image"
            )
        if n % grid.depth:
            raise ValueError(
                f"a batch of volumes with depth {grid.depth} must hold a multiple of that many "
                f"slices, got {n}; fold all slices of each volume into the batch axis"
            )


def _sam_colours() -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(mean / 255 for mean in PIXEL_MEAN), tuple(std / 255 for std in PIXEL_STD)
