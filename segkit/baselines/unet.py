"""MONAI's U-Nets, for pictures, slices and volumes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

Kind = Literal["unet", "dynunet"]


@dataclass(frozen=True, slots=True)
class UNetSizes:
    """Which network, on how many axes, and its channels, finest first."""

    name: str
    kind: Kind
    dimensions: Literal[2, 3]
    widths: tuple[int, ...]
    image_size: int = 128  # nominal side of the input

    @property
    def downsamplings(self) -> int:
        """Number of strides between the first and the last width."""
        return len(self.widths) - 1


UNET_2D = UNetSizes("unet_2d", "unet", 2, (16, 32, 64, 128, 256))
UNET_3D = UNetSizes("unet_3d", "unet", 3, (16, 32, 64, 128, 256))
DYNUNET_3D = UNetSizes("dynunet_3d", "dynunet", 3, (16, 32, 64, 128, 256))
UNETS = {sizes.name: sizes for sizes in (UNET_2D, UNET_3D, DYNUNET_3D)}


class UNetBody(nn.Module):
    """A U-Net up to its output layer: maps of `widths[0]` channels at full resolution.

    "unet" is `monai.networks.nets.UNet` with two residual units per level ("Left-Ventricle
    Quantification Using Residual U-Net", Kerfoot et al. 2018), "dynunet" MONAI's nnU-Net. `strides`
    are the down-samplings in array order, finest first; two on each axis by default.

    Example:
        >>> import torch
        >>> body = UNetBody(UNET_2D, in_channels=3)
        >>> [tuple(level.shape) for level in body(torch.rand(1, 3, 32, 48))]
        [(1, 16, 32, 48)]
    """

    def __init__(
        self,
        sizes: UNetSizes,
        *,
        in_channels: int = 1,
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        axes = sizes.dimensions
        found = strides or [(2,) * axes] * sizes.downsamplings
        if len(found) != sizes.downsamplings or any(len(one) != axes for one in found):
            raise ValueError(
                f"strides must be {sizes.downsamplings} times {axes} numbers, got {strides}"
            )
        self.sizes, self.strides = sizes, tuple(tuple(one) for one in found)
        self.net = _NETS[sizes.kind](sizes, in_channels, self.strides)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the sides of the input must be multiples of."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))

    @override
    def forward(self, x: Float[Tensor, "n c *size"]) -> tuple[Float[Tensor, "n width *size"], ...]:
        if any(side % step for side, step in zip(x.shape[2:], self.divisor, strict=True)):
            raise ValueError(
                f"sides must be multiples of {self.divisor}, got {tuple(x.shape[2:])}; pad them"
            )
        return (self.net(x),)


def _unet(sizes: UNetSizes, in_channels: int, strides: Sequence[Sequence[int]]) -> nn.Module:
    from monai.networks.nets import UNet  # seconds, which most models need not wait for

    return UNet(
        sizes.dimensions,
        in_channels,
        sizes.widths[0],
        channels=sizes.widths,
        strides=[tuple(one) for one in strides],  # type: ignore[misc]
        num_res_units=2,
    )


def _dynunet(sizes: UNetSizes, in_channels: int, strides: Sequence[Sequence[int]]) -> nn.Module:
    from monai.networks.nets import DynUNet

    axes = sizes.dimensions
    return DynUNet(
        axes,
        in_channels,
        sizes.widths[0],
        kernel_size=[(3,) * axes] * len(sizes.widths),
        strides=[(1,) * axes, *map(tuple, strides)],
        upsample_kernel_size=[tuple(one) for one in strides],
        filters=sizes.widths,
        res_block=True,
    )


_NETS = {"unet": _unet, "dynunet": _dynunet}
