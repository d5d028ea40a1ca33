"""Adapters: one file per method, found by the contract tests by themselves."""

import segkit.torchvision_compat  # noqa: F401
from segkit.adapters.base import Adapter, Compat
from segkit.adapters.dilated import DepthwiseDilated
from segkit.adapters.dvpt import DynamicPrompts
from segkit.adapters.frequency import Frequency
from segkit.adapters.highfreq import HighFrequency
from segkit.adapters.lora import LoRA
from segkit.adapters.spatial import Spatial
from segkit.adapters.stack import Stack

__all__ = [
    "Adapter",
    "Compat",
    "DepthwiseDilated",
    "DynamicPrompts",
    "Frequency",
    "HighFrequency",
    "LoRA",
    "Spatial",
    "Stack",
]
