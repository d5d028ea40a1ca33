"""Build a supervised network of any family from its sizes and the options of a data set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import nn

from segkit.baselines.stunet import ISOTROPIC, Init, StuNetBody, StuNetSizes, fit_strides
from segkit.baselines.unet import UNetBody, UNetSizes

Sizes = StuNetSizes | UNetSizes
Body = StuNetBody | UNetBody


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a data set decides about a network.

    `strides` are the down-samplings in array order (k, j, i), finest first, two on each axis by
    default; those of STU-Net are cut or filled up to five. `in_channels` is 1 (the slice itself) or
    3 (the channels of the model input), by default 1 in three dimensions. `init` is for STU-Net.
    `compat` "authors" repeats the first layer of loaded weights over several input channels without
    dividing by their number, as the released code does.
    """

    strides: Sequence[Sequence[int]] | None = None
    in_channels: int | None = None
    init: Init = "nnunetv1"
    compat: Literal["authors"] | None = None

    def __post_init__(self) -> None:
        if self.in_channels not in (None, 1, 3):
            raise ValueError(f"in_channels must be 1 or 3, got {self.in_channels}")
        if self.compat not in (None, "authors"):
            raise ValueError(f"compat must be None or 'authors', got {self.compat!r}")
        if self.strides is not None:
            object.__setattr__(self, "strides", [list(one) for one in self.strides])

    def to_dict(self) -> dict[str, object]:
        """Plain values; what is left at its default is left out."""
        default = asdict(NetworkOptions())
        return {name: value for name, value in asdict(self).items() if value != default[name]}


def make_body(sizes: Sizes, options: NetworkOptions) -> Body:
    """Build the network without its output layers.

    Raises:
        ValueError: The strides do not suit the network.
    """
    channels = input_channels(sizes, options)
    if isinstance(sizes, UNetSizes):
        return UNetBody(sizes, in_channels=channels, strides=options.strides)
    strides = ISOTROPIC if options.strides is None else fit_strides(options.strides)
    return StuNetBody(sizes, in_channels=channels, strides=strides, init=options.init)


def input_channels(sizes: Sizes, options: NetworkOptions) -> int:
    """Channels the network sees; pictures have three, volumes one."""
    return options.in_channels or (3 if axes(sizes) == 2 else 1)


def make_heads(sizes: Sizes, outputs: int) -> nn.ModuleList:
    """Output convolutions of all levels with features, finest first."""
    if isinstance(sizes, StuNetSizes):
        return nn.ModuleList(nn.Conv3d(width, outputs, 1) for width in sizes.widths[:-1])
    conv = nn.Conv2d if sizes.dimensions == 2 else nn.Conv3d
    return nn.ModuleList([conv(sizes.widths[0], outputs, 1)])


def axes(sizes: Sizes) -> Literal[2, 3]:
    """Number of spatial axes."""
    return sizes.dimensions if isinstance(sizes, UNetSizes) else 3
