"""SAM 2's image encoder (Hiera) as a backbone: timm's blocks, segkit's loop."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from segkit.backbones.base import Backbone, Stem
from segkit.backbones.position_memo import PositionMemo
from segkit.backbones.sam2_modules import SAM2_TEST, Sam2ImageEncoder, Sam2MaskHead, Sam2Sizes
from segkit.typing import BackboneSpec, BlockSpec, Features, Grid, Image, Maps, Tokens

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
_FIRST_STRIDE = 4


def sam2_spec(sizes: Sam2Sizes) -> BackboneSpec:
    """What adapters and decoders may know about a SAM 2 of these sizes."""
    blocks: list[BlockSpec] = []
    dim = sizes.embed_dim
    for stage, (count, width) in enumerate(zip(sizes.stages, sizes.widths, strict=True)):
        for _ in range(count):
            blocks.append(BlockSpec(dim, width, _FIRST_STRIDE * 2**stage))
            dim = width
    return BackboneSpec(
        name=sizes.name,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        blocks=tuple(blocks),
        out_dim=sizes.out_dim,
        out_stride=sizes.stride,
    )


class Sam2Backbone(Backbone):
    """SAM 2's Hiera with one adapter around its blocks ("SAM 2", Ravi et al. 2024).

    Features have three levels, finest first: strides 4, 8 and 16 with an eighth, a quarter and all
    of the channels. The two fine levels have gone through `high_res`, two layers that belong to the
    mask decoder and are trained with it; they run here, once per image, because they are the
    decoder's largest maps. The coarsest level is free of memory: decoders add the embedding that
    says so, trackers replace it by attention.

    Images may have any height and width that are multiples of 32. The background of the position
    embedding is always resized (bicubic), its window part is tiled. `checkpointing` recomputes
    each block in the backward pass.

    Example:
        >>> backbone = Sam2Backbone.tiny(Adapter)
        >>> features = backbone(torch.rand(2, 3, 64, 96), Grid((2, 64, 96)))
        >>> [tuple(level.shape) for level in features.levels]
        [(2, 4, 16, 24), (2, 8, 8, 12), (2, 32, 4, 6)]
    """

    has_stem = True
    encoder: Sam2ImageEncoder
    high_res: Any
    pixel_mean: Tensor
    pixel_std: Tensor
    pad_value: tuple[float, float, float] = PIXEL_MEAN

    def __init__(
        self,
        encoder: Sam2ImageEncoder,
        high_res: tuple[nn.Conv2d, nn.Conv2d],
        sizes: Sam2Sizes,
        adapter: Callable[[BackboneSpec], nn.Module],
        *,
        trainable: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(encoder, sam2_spec(sizes), adapter, trainable=trainable)
        self.high_res = nn.ModuleList(high_res)
        self.checkpointing = checkpointing
        self._positions = PositionMemo()
        mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
        self.register_buffer("pixel_mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", std.view(-1, 1, 1), persistent=False)

    @classmethod
    @override
    def tiny(cls, adapter: Callable[[BackboneSpec], nn.Module]) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder, head = Sam2ImageEncoder(SAM2_TEST), Sam2MaskHead(SAM2_TEST)
            for parameter in encoder.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=0.02)
        return cls(encoder, (head.conv_s0, head.conv_s1), SAM2_TEST, adapter)

    @override
    def forward(self, image: Image, grid: Grid, stem: Stem | None = None) -> Features:
        # the layers of the fine levels belong to the decoder and may be trained
        fine, middle, coarse = self._levels(image, grid) if stem is None else stem
        return Features((self.high_res[0](fine), self.high_res[1](middle), coarse), grid)

    @override
    @torch.no_grad()
    def stem(self, image: Image, grid: Grid) -> Stem:
        return self._levels(image, grid)

    @property
    @override
    def frozen_blocks(self) -> int:
        # what early stages pass on to the neck is not kept: all blocks or none
        return len(self.spec.blocks) if self.is_fixed else 0

    def _levels(self, image: Image, grid: Grid) -> Stem:
        self._check(image, grid)
        image = self.normalise(image)
        trunk = self.encoder.trunk
        tokens = trunk.patch_embed(image)
        state = self.adapter.prepare(image, tokens, grid)
        size = (tokens.shape[1], tokens.shape[2])
        tokens = tokens + self._positions(trunk.pos_embed, trunk.pos_embed_window, size)
        stages: list[Maps] = []
        for index in range(len(trunk.blocks)):
            tokens = self._step(index, tokens, state)
            if index in trunk.stage_ends:
                stages.append(tokens.permute(0, 3, 1, 2))
        fine, middle, coarse = self.encoder.neck(stages)
        return fine, middle, coarse

    def normalise(self, image: Image) -> Image:
        """Bring values in [0, 1] to the mean and spread SAM 2 was trained with."""
        pixels = (image - self.pixel_mean) / self.pixel_std
        return pixels.to(self.encoder.trunk.patch_embed.proj.weight.dtype)

    def _step(self, index: int, tokens: Tokens, state: object) -> Tokens:
        run = partial(self._edited_block, index)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(run, tokens, state, use_reentrant=False)
        return run(tokens, state)

    def _edited_block(self, index: int, tokens: Tokens, state: object) -> Tokens:
        tokens = self.adapter.before(index, tokens, state)
        tokens = self.encoder.trunk.blocks[index](tokens)
        return self.adapter.after(index, tokens, state)

    def _check(self, image: Image, grid: Grid) -> None:
        n, _, h, w = image.shape
        if h % (side := self.spec.patch_size) or w % side:
            raise ValueError(
                f"image height and width must be multiples of {side}, got {h} x {w}; pad the image"
            )
        if n % grid.depth:
            raise ValueError(
                f"a batch of volumes with depth {grid.depth} must hold a multiple of that many "
                f"slices, got {n}; fold all slices of each volume into the batch axis"
            )
