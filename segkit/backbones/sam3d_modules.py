"""Parts of the volumetric lift: what stays frozen of SAM's ViT and what is trained beside it."""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, PatchEmbed
from torch import Tensor, nn
from typing_extensions import override

from segkit.backbones.sam_modules import NANO, TINY, VIT_B, VIT_H, VIT_L, SamSizes
from segkit.typing import BackboneSpec, BlockSpec, Image, Tokens

Volumes = Float[Tensor, "volumes depth rows cols dim"]


@dataclass(frozen=True, slots=True)
class LiftSizes:
    """All numbers of a volumetric SAM; the defaults are those of 3DSAM-adapter.

    Volumes are enlarged `upsample` times on each axis before SAM's patches are cut, so a token
    covers `stride` voxels. `side` is the nominal side of the input in voxels, `window` the largest
    side of an attention window in tokens, `taps` the number of feature levels.
    """

    name: str
    sam: SamSizes
    upsample: int = 4
    side: int = 128
    window: int = 8
    taps: int = 4

    @property
    def stride(self) -> int:
        """Voxels per token on each axis."""
        return self.sam.patch_size // self.upsample

    @property
    def image_size(self) -> int:
        """Nominal side of the input in voxels, as other sizes call it."""
        return self.side

    @property
    def patch_size(self) -> int:
        """Sides of the input are multiples of this."""
        return self.stride

    @property
    def tapped(self) -> tuple[int, ...]:
        """Blocks whose output becomes a feature level, spread evenly, the last one included."""
        return tuple(
            math.ceil(self.sam.depth * tap / self.taps) - 1 for tap in range(1, 1 + self.taps)
        )

    @property
    def spec(self) -> BackboneSpec:
        """What adapters and decoders may know."""
        block = BlockSpec(self.sam.embed_dim, self.sam.embed_dim, self.stride)
        return BackboneSpec(
            name=self.name,
            image_size=self.side,
            patch_size=self.stride,
            blocks=(block,) * self.sam.depth,
            out_dim=self.sam.out_dim,
            out_stride=self.stride,
            dimensions=3,
        )


_TINY = replace(TINY, name="sam3d_tiny", image_size=128, depth=4, global_blocks=(1, 3))

SAM3D_VIT_B = LiftSizes("sam3d_vit_b", VIT_B)
SAM3D_VIT_L = LiftSizes("sam3d_vit_l", VIT_L)
SAM3D_VIT_H = LiftSizes("sam3d_vit_h", VIT_H)
SAM3D_NANO = LiftSizes("sam3d_nano", NANO, side=64)
SAM3D_TINY = LiftSizes("sam3d_tiny", _TINY, upsample=2, side=64, window=4)
LIFT_SIZES = {
    sizes.name: sizes for sizes in (SAM3D_VIT_B, SAM3D_VIT_L, SAM3D_VIT_H, SAM3D_NANO, SAM3D_TINY)
}


class LiftEncoder(nn.Module):
    """What the lift keeps of SAM's encoder as it is: patches, positions, attention and MLPs.

    SAM's norms are trained, so copies of them live in `Lift`; SAM's two-dimensional neck is not
    used.
    """

    pos_embed: nn.Parameter

    def __init__(self, encoder: ImageEncoderViT, sizes: LiftSizes) -> None:
        super().__init__()
        self.patch_embed = FinePatches(encoder.patch_embed, sizes.upsample)
        self.pos_embed = cast(nn.Parameter, encoder.pos_embed)
        self.blocks = nn.ModuleList(_FrozenBlock(block) for block in encoder.blocks)


class FinePatches(nn.Module):
    """SAM's patch embedding of an image enlarged bilinearly, without ever enlarging it.

    Both steps are linear, so their product is one convolution with a kernel of stride + 2 pixels.
    `enlarge` holds the weights of the enlargement along one axis: row y is pixel y of an enlarged
    patch, column a the source pixel a - 1 of the patch.
    """

    enlarge: Tensor

    def __init__(self, patches: PatchEmbed, factor: int) -> None:
        super().__init__()
        self.proj = patches.proj
        patch = self.proj.kernel_size[0]
        self.stride = patch // factor
        self.register_buffer("enlarge", _enlarging(patch, factor), persistent=False)

    @override
    def forward(self, image: Image) -> Tokens:
        kernel = self.proj.weight.to(self.enlarge)
        kernel = torch.einsum("ocyx,ya,xb->ocab", kernel, self.enlarge, self.enlarge)
        border = F.pad(image, (1, 1, 1, 1), mode="replicate")
        maps = F.conv2d(border, kernel.to(border), self.proj.bias, stride=self.stride)
        return maps.permute(0, 2, 3, 1)


class _FrozenBlock(nn.Module):
    attn: Attention

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.attn, self.mlp = block.attn, block.mlp


class Lift(nn.Module):
    """The trained half: slices, depth, norms, relative positions along depth, and necks.

    It starts where SAM stands: a token averages its slices, depth adds nothing, and each neck is
    SAM's, acting in the plane. `is_random` starts slices and necks at random and depth at one, as
    the released code does.
    """

    def __init__(
        self, encoder: ImageEncoderViT, sizes: LiftSizes, *, is_random: bool = False
    ) -> None:
        super().__init__()
        dim, patch = sizes.sam.embed_dim, sizes.sam.patch_size
        self.slice_embed = nn.Conv3d(dim, dim, (patch, 1, 1), stride=(patch, 1, 1), groups=dim)
        self.depth_embed = nn.Parameter(torch.zeros(1, sizes.side // sizes.stride, dim))
        self.blocks = nn.ModuleList(LiftBlock(block) for block in encoder.blocks)
        self.necks = nn.ModuleList(_neck(dim, sizes.sam.out_dim) for _ in range(sizes.taps))
        if is_random:
            nn.init.ones_(self.depth_embed)
            return
        nn.init.constant_(self.slice_embed.weight, 1 / patch)
        nn.init.zeros_(cast(Tensor, self.slice_embed.bias))
        for neck in self.necks:
            _copy_neck(encoder.neck, cast(nn.Sequential, neck))


class LiftBlock(nn.Module):
    """Norms of one block and its relative positions along depth, the mean of the other two axes."""

    rel_pos_d: nn.Parameter | None

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.norm2 = deepcopy(block.norm1), deepcopy(block.norm2)
        self.requires_grad_(True)
        if block.attn.use_rel_pos:
            table = 0.5 * (block.attn.rel_pos_h.detach() + block.attn.rel_pos_w.detach())
            self.rel_pos_d = nn.Parameter(table)
        else:
            self.register_parameter("rel_pos_d", None)


class LayerNorm3d(nn.LayerNorm):
    """Norm over the channels of channel-first volumes."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def _enlarging(patch: int, factor: int) -> Float[Tensor, "patch taps"]:
    # explicit device: counting takes place on the meta device, which holds no numbers
    weights = torch.zeros(patch, patch // factor + 2, device="cpu")
    for pixel in range(patch):
        place = (pixel + 0.5) / factor + 0.5
        below = int(place)
        weights[pixel, below] += 1 - (place - below)
        weights[pixel, below + 1] += place - below
    return weights


def _neck(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(dim, out_dim, 1, bias=False),
        LayerNorm3d(out_dim, eps=1e-6),
        nn.Conv3d(out_dim, out_dim, 3, padding=1, bias=False),
        LayerNorm3d(out_dim, eps=1e-6),
    )


def _copy_neck(flat: nn.Sequential, neck: nn.Sequential) -> None:
    """Take over a two-dimensional neck; its 3x3 kernel becomes the middle slice."""
    with torch.no_grad():
        for source, target in zip(flat, neck, strict=True):
            weight = cast(Tensor, source.weight)
            if isinstance(target, LayerNorm3d):
                target.weight.copy_(weight)
                target.bias.copy_(cast(Tensor, source.bias))
            else:
                middle = cast(Tensor, target.weight)
                middle.zero_()
                middle[:, :, middle.shape[2] // 2] = weight
