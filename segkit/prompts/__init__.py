"""From user marks to tokens, and simulated users; the names are imported at their first use."""

from typing import TYPE_CHECKING

import segkit.torchvision_compat  # noqa: F401
from segkit.lazy import attributes

if TYPE_CHECKING:
    from segkit.prompts.base import PromptEncoder as PromptEncoder
    from segkit.prompts.encoder import SamPromptEncoder as SamPromptEncoder
    from segkit.prompts.none import NoPrompts as NoPrompts
    from segkit.prompts.sam2 import Sam2PromptEncoder as Sam2PromptEncoder
    from segkit.prompts.sampler import PointSampler as PointSampler

__getattr__, __dir__ = attributes(
    __name__,
    {
        "base": ("PromptEncoder",),
        "encoder": ("SamPromptEncoder",),
        "none": ("NoPrompts",),
        "sam2": ("Sam2PromptEncoder",),
        "sampler": ("PointSampler",),
    },
)
