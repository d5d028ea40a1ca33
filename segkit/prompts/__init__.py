"""From user marks to tokens, and simulated users for training and evaluation."""

import segkit.torchvision_compat  # noqa: F401
from segkit.prompts.base import PromptEncoder as PromptEncoder
from segkit.prompts.encoder import SamPromptEncoder as SamPromptEncoder
from segkit.prompts.none import NoPrompts as NoPrompts
from segkit.prompts.sam2 import Sam2PromptEncoder as Sam2PromptEncoder
from segkit.prompts.sampler import PointSampler as PointSampler
