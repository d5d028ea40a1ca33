"""SAM's image encoder (ViT) as a backbone: upstream's blocks, segkit's loop."""

from collections.abc import Callable
from functools import partial
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from segkit.backbones.base import Backbone, Stem
from segkit.backbones.sam_modules import TINY, SamModules, SamSizes
from segkit.kernels.attention import grid_attention
from segkit.typing import BackboneSpec, BlockSpec, Features, Grid, Image, Tokens

AttentionPath = Literal["sdpa", "eager"]
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
_STRETCH = 1024


def sam_spec(sizes: SamSizes) -> BackboneSpec:
    """What adapters and decoders may know about a SAM of these sizes."""
    block = BlockSpec(sizes.embed_dim, sizes.embed_dim, sizes.patch_size)
    return BackboneSpec(
        name=sizes.name,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        blocks=(block,) * sizes.depth,
        out_dim=sizes.out_dim,
        out_stride=sizes.patch_size,
    )


class SamBackbone(Backbone):
    """SAM's ViT with one adapter around its blocks ("Segment Anything", Kirillov et al. 2023).

    Images may have any height and width that are multiples of the patch: the position embedding is
    then resized (bicubic), the relative positions of global blocks too (linear, as upstream). At
    the native size nothing is resized. `attention="eager"` calls upstream's blocks as they are and
    equals `ImageEncoderViT.forward` bit for bit; "sdpa" computes the same function with fused
    attention and never holds a tokens x tokens matrix. `checkpointing` recomputes each block in the
    backward pass.

    SAM pads after normalisation, with zeros. Who pads images before they come here uses
    `pad_value`, the colour that normalises to zero.

    Example:
        >>> backbone = SamBackbone.tiny(Adapter)
        >>> features = backbone(torch.rand(2, 3, 64, 64), Grid((2, 64, 64)))
        >>> features.levels[0].shape
        torch.Size([2, 32, 8, 8])
    """

    has_stem = True
    encoder: ImageEncoderViT
    pixel_mean: Tensor
    pixel_std: Tensor
    pad_value: tuple[float, float, float] = tuple(mean / 255 for mean in PIXEL_MEAN)  # type: ignore[assignment]

    def __init__(
        self,
        encoder: ImageEncoderViT,
        sizes: SamSizes,
        adapter: Callable[[BackboneSpec], nn.Module],
        *,
        trainable: bool = False,
        attention: AttentionPath = "sdpa",
        checkpointing: bool = False,
    ) -> None:
        if attention not in get_args(AttentionPath):
            raise ValueError(
                f"attention must be one of {get_args(AttentionPath)}, got {attention!r}"
            )
        super().__init__(encoder, sam_spec(sizes), adapter, trainable=trainable)
        self.checkpointing = checkpointing
        self.block = _fused_block if attention == "sdpa" else _upstream_block
        mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
        self.register_buffer("pixel_mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", std.view(-1, 1, 1), persistent=False)

    @classmethod
    @override
    def tiny(cls, adapter: Callable[[BackboneSpec], nn.Module]) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = SamModules(TINY).image_encoder
            for parameter in encoder.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.02)
        return cls(encoder, TINY, adapter)

    @override
    def forward(self, image: Image, grid: Grid, stem: Stem | None = None) -> Features:
        self._check(image, grid)
        if stem is not None and self.is_fixed:
            return Features(stem, grid)
        image = self.normalise(image)
        tokens = self.encoder.patch_embed(image)
        state = self.adapter.prepare(image, tokens, grid)
        done = 0 if stem is None else self.frozen_blocks
        if stem is None:
            tokens = self._placed(tokens)
        else:
            tokens = self.adapter.after(done - 1, stem[0], state) if done else stem[0]
        for index in range(done, len(self.encoder.blocks)):
            tokens = self._step(index, tokens, state)
        return Features((self.encoder.neck(tokens.permute(0, 3, 1, 2)),), grid)

    @override
    @torch.no_grad()
    def stem(self, image: Image, grid: Grid) -> Stem:
        if self.is_fixed:
            return self(image, grid).levels
        self._check(image, grid)
        tokens = self._placed(self.encoder.patch_embed(self.normalise(image)))
        for index in range(self.frozen_blocks):
            tokens = self.block(self.encoder.blocks[index], tokens)
        return (tokens,)

    def _placed(self, tokens: Tokens) -> Tokens:
        if (positions := self.encoder.pos_embed) is None:
            return tokens
        return tokens + _resized(positions, (tokens.shape[1], tokens.shape[2]))

    def normalise(self, image: Image) -> Image:
        """Bring values in [0, 1] to the mean and spread SAM was trained with."""
        pixels = (image * 255 - self.pixel_mean) / self.pixel_std
        return pixels.to(self.encoder.patch_embed.proj.weight.dtype)

    def _step(self, index: int, tokens: Tokens, state: object) -> Tokens:
        run = partial(self._edited_block, index)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(run, tokens, state, use_reentrant=False)
        return run(tokens, state)

    def _edited_block(self, index: int, tokens: Tokens, state: object) -> Tokens:
        tokens = self.adapter.before(index, tokens, state)
        tokens = self.block(self.encoder.blocks[index], tokens)
        return self.adapter.after(index, tokens, state)

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


def _upstream_block(block: Block, tokens: Tokens) -> Tokens:
    return block(tokens)


def _fused_block(block: Block, tokens: Tokens) -> Tokens:
    """Compute what upstream's block computes, with fused attention."""
    return _with_mlp(block, tokens + attended(block, tokens, _attend))


def attended(block: Block, tokens: Tokens, attend: Callable[[Attention, Tensor], Tokens]) -> Tokens:
    """What a block adds to the tokens before its MLP; `attend` gets qkv of windows or of images."""
    x = block.norm1(tokens)
    side, attn = block.window_size, block.attn
    if side == 0:
        return attn.proj(attend(attn, attn.qkv(x)))
    size = x.shape[1:3]
    if type(attn.qkv) is nn.Linear:
        windows, padded = window_partition(_padded(attn.qkv(x), side, attn.qkv.bias), side)
        return attn.proj(window_unpartition(attend(attn, windows), side, padded, size))
    # an edited layer may look at whole windows
    windows, padded = window_partition(x, side)
    x = attn.proj(attend(attn, attn.qkv(windows)))
    return window_unpartition(x, side, padded, size)


def _padded(
    qkv: Float[Tensor, "n rows cols width"], side: int, bias: Float[Tensor, " width"] | None
) -> Float[Tensor, "n h w width"]:
    """Pad to whole windows with what the layer makes of zeros, its bias.

    Upstream pads before the layer; padding is attended to, but need not be computed.
    """
    n, rows, cols, width = qkv.shape
    more = (-rows % side, -cols % side)
    if bias is None or more == (0, 0):
        return F.pad(qkv, (0, 0, 0, more[1], 0, more[0]))
    right = bias.to(qkv).expand(n, rows, more[1], width)
    below = bias.to(qkv).expand(n, more[0], cols + more[1], width)
    return torch.cat([torch.cat([qkv, right], dim=2), below], dim=1)


def _with_mlp(block: Block, tokens: Tokens) -> Tokens:
    weights = (tokens, *block.parameters())
    if tokens.is_cuda or (torch.is_grad_enabled() and any(x.requires_grad for x in weights)):
        return tokens + block.mlp(block.norm2(tokens))
    # a stretch at a time: the hidden layer is four times as wide as the tokens
    flat = tokens.flatten(0, 2)
    out = torch.empty_like(flat)
    for start in range(0, len(flat), _STRETCH):
        some = flat[start : start + _STRETCH]
        torch.add(some, block.mlp(block.norm2(some)), out=out[start : start + _STRETCH])
    return out.view_as(tokens)


def _attend(attn: Attention, qkv: Float[Tensor, "n h w width"]) -> Tokens:
    n, h, w, _ = qkv.shape
    qkv = qkv.reshape(n, h * w, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [n heads tokens channels]
    if attn.use_rel_pos:
        rows = get_rel_pos(h, h, attn.rel_pos_h).to(q)
        cols = get_rel_pos(w, w, attn.rel_pos_w).to(q)
        x = grid_attention(q, k, v, (rows, cols))
    else:
        x = F.scaled_dot_product_attention(q, k, v)
    return x.transpose(1, 2).reshape(n, h, w, -1)


def _resized(
    positions: Float[Tensor, "1 rows cols dim"], size: tuple[int, int]
) -> Float[Tensor, "1 h w dim"]:
    """Resize the position embedding to a token grid; the native grid gets it untouched."""
    if positions.shape[1:3] == size:
        return positions
    maps = F.interpolate(positions.permute(0, 3, 1, 2), size=tuple(size), mode="bicubic")
    return maps.permute(0, 2, 3, 1)
