"""STU-Net: a residual 3D U-Net in four sizes, with the parameter names of the released code."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

Init = Literal["nnunetv1", "nnunetv2"]
Stride = tuple[int, int, int]
Maps3d = Float[Tensor, "n c d h w"]

DOWNSAMPLINGS = 5
SLOPE = 1e-2
ISOTROPIC: tuple[Stride, ...] = ((2, 2, 2),) * DOWNSAMPLINGS


@dataclass(frozen=True, slots=True)
class StuNetSizes:
    """Blocks per stage, and channels of the six resolutions, finest first."""

    name: str
    depth: int
    widths: tuple[int, int, int, int, int, int]
    image_size: int = 128  # side of the blocks the published weights were trained on


STU_NET_S = StuNetSizes("stu_net_s", 1, (16, 32, 64, 128, 256, 256))
STU_NET_B = StuNetSizes("stu_net_b", 1, (32, 64, 128, 256, 512, 512))
STU_NET_L = StuNetSizes("stu_net_l", 2, (64, 128, 256, 512, 1024, 1024))
STU_NET_H = StuNetSizes("stu_net_h", 3, (96, 192, 384, 768, 1536, 1536))
STU_NET_TINY = StuNetSizes("stu_net_tiny", 1, (4, 8, 16, 32, 32, 32))
STU_NETS = {
    sizes.name: sizes for sizes in (STU_NET_S, STU_NET_B, STU_NET_L, STU_NET_H, STU_NET_TINY)
}


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions; `has_projection` puts a 1 x 1 x 1 one on the shortcut."""

    def __init__(
        self, dim_in: int, dim_out: int, *, stride: Stride = (1, 1, 1), has_projection: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(dim_in, dim_out, 3, stride, padding=1)
        self.norm1 = nn.InstanceNorm3d(dim_out, affine=True)
        self.conv2 = nn.Conv3d(dim_out, dim_out, 3, padding=1)
        self.norm2 = nn.InstanceNorm3d(dim_out, affine=True)
        self.conv3 = nn.Conv3d(dim_in, dim_out, 1, stride) if has_projection else None

    @override
    def forward(self, x: Maps3d) -> Maps3d:
        y = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE)
        y = self.norm2(self.conv2(y))
        shortcut = x if self.conv3 is None else self.conv3(x)
        return F.leaky_relu(y + shortcut, SLOPE)


class Upsample(nn.Module):
    """Nearest neighbours by the stride, then a 1 x 1 x 1 convolution."""

    def __init__(self, dim_in: int, dim_out: int, stride: Stride) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv3d(dim_in, dim_out, 1)

    @override
    def forward(self, x: Maps3d) -> Maps3d:
        size = [side * step for side, step in zip(x.shape[2:], self.stride, strict=True)]
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class StuNetBody(nn.Module):
    """STU-Net without its output layers ("STU-Net", Huang et al. 2023, arXiv 2304.06716).

    `strides` are the five down-samplings, finest first, in array order (k, j, i); every side of the
    input must be a multiple of their product. `init` "nnunetv1" is He's initialisation of the first
    release, "nnunetv2" PyTorch's default as in the second one.
    """

    def __init__(
        self,
        sizes: StuNetSizes,
        *,
        in_channels: int = 1,
        strides: Sequence[Stride] = ISOTROPIC,
        init: Init = "nnunetv1",
    ) -> None:
        super().__init__()
        if len(strides) != DOWNSAMPLINGS:
            raise ValueError(f"strides must be {DOWNSAMPLINGS}, got {strides}; see fit_strides")
        if init not in get_args(Init):
            raise ValueError(f"init must be one of {get_args(Init)}, got {init!r}")
        self.sizes, self.strides, depth = sizes, tuple(strides), sizes.depth
        widths = sizes.widths
        ways = zip(pairwise((in_channels, *widths)), ((1, 1, 1), *strides), strict=True)
        self.conv_blocks_context = nn.ModuleList(
            _stage(before, after, depth, stride) for (before, after), stride in ways
        )
        ups = list(zip(widths[:0:-1], widths[-2::-1], strides[::-1], strict=True))
        self.upsample_layers = nn.ModuleList(Upsample(*up) for up in ups)
        self.conv_blocks_localization = nn.ModuleList(
            _stage(2 * width, width, depth) for _, width, _ in ups
        )
        if init == "nnunetv1":
            self.apply(_he)

    @property
    def divisor(self) -> Stride:
        """What the sides of the input must be multiples of."""
        return divisor(self.strides)

    def features(self, x: Maps3d) -> tuple[Maps3d, ...]:
        """Maps of the five levels of the decoder, finest first.

        Raises:
            ValueError: A side of the input is no multiple of `divisor`.
        """
        if any(side % step for side, step in zip(x.shape[2:], self.divisor, strict=True)):
            raise ValueError(
                f"sides must be multiples of {self.divisor}, got {tuple(x.shape[2:])}; pad them"
            )
        skips: list[Maps3d] = []
        for stage in self.conv_blocks_context[:-1]:
            x = stage(x)
            skips.append(x)
        x = self.conv_blocks_context[-1](x)
        levels: list[Maps3d] = []
        for up, stage in zip(self.upsample_layers, self.conv_blocks_localization, strict=True):
            x = stage(torch.cat([up(x), skips.pop()], dim=1))
            levels.append(x)
        return tuple(levels[::-1])

    @override
    def forward(self, x: Maps3d) -> tuple[Maps3d, ...]:
        return self.features(x)


class StuNet(StuNetBody):
    """The whole network; returns logits of all five levels, finest first.

    `outputs` counts the classes with the background. Parameter names are those of the released
    code: index 0 of `seg_outputs` is the coarsest level.

    Example:
        >>> net = StuNet(STU_NET_TINY, outputs=2)
        >>> [tuple(level.shape[1:]) for level in net(torch.rand(1, 1, 64, 64, 64))][:2]
        [(2, 64, 64, 64), (2, 32, 32, 32)]
    """

    def __init__(
        self,
        sizes: StuNetSizes,
        *,
        outputs: int,
        in_channels: int = 1,
        strides: Sequence[Stride] = ISOTROPIC,
        init: Init = "nnunetv1",
    ) -> None:
        super().__init__(sizes, in_channels=in_channels, strides=strides, init=init)
        self.seg_outputs = nn.ModuleList(
            nn.Conv3d(width, outputs, 1) for width in sizes.widths[-2::-1]
        )
        if init == "nnunetv1":
            self.seg_outputs.apply(_he)

    @override
    def forward(self, x: Maps3d) -> tuple[Maps3d, ...]:
        levels = self.features(x)
        heads = list(self.seg_outputs)[::-1]
        return tuple(head(level) for head, level in zip(heads, levels, strict=True))


def fit_strides(strides: Sequence[Sequence[int]]) -> tuple[Stride, ...]:
    """Cut the down-samplings of an nnU-Net plan to five, or fill them up with steps of one.

    Raises:
        ValueError: A stride does not have three steps >= 1.
    """
    if wrong := [one for one in strides if len(one) != 3 or min(one) < 1]:
        raise ValueError(
            f"strides of an nnU-Net plan (pool_op_kernel_sizes) must be three whole numbers >= 1 "
            f"for each down-sampling, got {wrong[0]}; use those of its 3d_fullres configuration"
        )
    found = [(int(k), int(j), int(i)) for k, j, i in strides][:DOWNSAMPLINGS]
    return (*found, *((1, 1, 1),) * (DOWNSAMPLINGS - len(found)))


def strides_for(
    shape: Sequence[int], spacing_mm: Sequence[float], *, smallest: int = 4
) -> tuple[Stride, ...]:
    """Down-samplings for a patch of `shape` voxels, both in array order (k, j, i).

    As in nnU-Net an axis is halved while at least `smallest` cells are left, and coarse axes wait
    until the others have reached their spacing (within a factor of two).
    """
    sides, steps = list(shape), list(spacing_mm)
    found: list[Stride] = []
    for _ in range(DOWNSAMPLINGS):
        can = [side >= 2 * smallest for side in sides]
        finest = min((mm for mm, ok in zip(steps, can, strict=True) if ok), default=math.inf)
        halve = [ok and mm < 2 * finest for ok, mm in zip(can, steps, strict=True)]
        found.append(tuple(1 + one for one in halve))  # type: ignore[arg-type]
        sides = [-(-side // step) for side, step in zip(sides, found[-1], strict=True)]
        steps = [mm * step for mm, step in zip(steps, found[-1], strict=True)]
    return tuple(found)


def divisor(strides: Sequence[Stride]) -> Stride:
    """Product of all strides by axis."""
    k, j, i = (math.prod(axis) for axis in zip(*strides, strict=True))
    return (k, j, i)


def _stage(dim_in: int, dim_out: int, depth: int, stride: Stride = (1, 1, 1)) -> nn.Sequential:
    first = ResidualBlock(dim_in, dim_out, stride=stride)
    rest = (ResidualBlock(dim_out, dim_out, has_projection=False) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


def _he(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
