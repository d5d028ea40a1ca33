"""What a plan may be asked for, by name."""

from typing import Literal

PromptMode = Literal["automatic", "box", "click", "mixed"]
MODELS = ("nano", "unet_2d")
"""Models of slices that need no weight file; each has a file in configs/backbone."""
