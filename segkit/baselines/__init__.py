"""Supervised networks without a foundation model, to be measured beside adapted ones."""

import segkit.torchvision_compat  # noqa: F401
from segkit.baselines.network import NetworkOptions as NetworkOptions
from segkit.baselines.network import make_body as make_body
from segkit.baselines.network import make_heads as make_heads
from segkit.baselines.stunet import STU_NETS as STU_NETS
from segkit.baselines.stunet import StuNet as StuNet
from segkit.baselines.stunet import StuNetBody as StuNetBody
from segkit.baselines.unet import UNETS as UNETS
from segkit.baselines.unet import UNetBody as UNetBody
