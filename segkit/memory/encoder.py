"""Memory encoder: a frame and the mask found on it become one map to remember."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.memory.attention_cpu import can_run
from segkit.typing import Maps

_STEPS = (1, 4, 16, 64, 256)  # channels of the mask; each step halves its height and width
_LAYER_SCALE = 1e-6


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a channel-first map."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    @override
    def forward(self, x: Maps) -> Maps:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MaskDownsampler(nn.Module):
    """Bring a mask from pixels to the cells of the coarsest level (stride 16)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(_STEPS):
            layers += [nn.Conv2d(before, after, 3, 2, 1), ChannelNorm(after), nn.GELU()]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(_STEPS[-1], dim, 1))

    @override
    def forward(self, mask: Float[Tensor, "n 1 height width"]) -> Maps:
        return self.encoder(mask)


class FuserBlock(nn.Module):
    """ConvNeXt block ("A ConvNet for the 2020s", Liu et al., CVPR 2022, figure 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = ChannelNorm(dim)
        self.pwconv1, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), _LAYER_SCALE))

    @override
    def forward(self, x: Maps) -> Maps:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """Blocks that mix frame and mask."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(FuserBlock(dim) for _ in range(blocks)))

    @override
    def forward(self, x: Maps) -> Maps:
        return self.layers(x)


class MemoryEncoder(nn.Module):
    """Fuse the features of an image with the masks of its objects.

    Source: "SAM 2" (Ravi et al., 2024), appendix D.1. Difference: the projection of the image is
    computed once, whatever the number of objects.
    """

    def __init__(self, dim: int, memory_dim: int, *, blocks: int) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(dim)
        self.pix_feat_proj = nn.Conv2d(dim, dim, 1)
        self.fuser = Fuser(dim, blocks)
        self.out_proj = nn.Identity() if memory_dim == dim else nn.Conv2d(dim, memory_dim, 1)

    @override
    def forward(
        self,
        maps: Maps,
        masks: Float[Tensor, "objects 1 height width"],
        image_index: Int[Tensor, " objects"],
    ) -> Float[Tensor, "objects memory rows cols"]:
        """`masks` have the size of the model input; `maps` have seen no memory."""
        images = self.pix_feat_proj(maps)[image_index]
        # one object's maps fit in the cache of a CPU, those of ten do not
        size = 1 if can_run(masks, is_training=self.training) else len(masks)
        return torch.cat(
            [
                self.out_proj(self.fuser(image + self.mask_downsampler(mask)))
                for image, mask in zip(images.split(size), masks.split(size), strict=True)
            ]
        )
