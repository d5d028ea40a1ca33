"""Depthwise dilated convolution with GELU."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from segkit.typing import Maps


def depthwise_gelu(
    x: Maps, weight: Float[Tensor, "c 1 3 3"], bias: Float[Tensor, " c"], rate: int
) -> Maps:
    """GELU of a depthwise 3x3 convolution, zero-padded to equal size."""
    return F.gelu(F.conv2d(x, weight, bias, padding=rate, dilation=rate, groups=x.shape[1]))
