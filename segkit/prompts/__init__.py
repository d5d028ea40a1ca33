"""From user marks to tokens, and simulated users for training and evaluation."""

import segkit.torchvision_compat  # noqa: F401
from segkit.prompts.base import PromptEncoder as PromptEncoder
from segkit.prompts.encoder import SamPromptEncoder as SamPromptEncoder
