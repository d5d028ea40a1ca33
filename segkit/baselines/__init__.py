"""Supervised networks without a foundation model, to be measured beside adapted ones."""

import segkit.torchvision_compat  # noqa: F401
from segkit.baselines.stunet import STU_NETS, StuNet, StuNetBody, StuNetSizes

__all__ = ["STU_NETS", "StuNet", "StuNetBody", "StuNetSizes"]
