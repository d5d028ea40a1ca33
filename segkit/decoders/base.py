"""What every decoder is."""

from abc import abstractmethod

from torch import nn

from segkit.typing import Features, MaskPrediction, PromptTokens


class Decoder(nn.Module):
    """Turn features and prompt tokens into masks; `None` asks for the automatic mode."""

    @abstractmethod
    def forward(self, features: Features, prompts: PromptTokens | None) -> MaskPrediction:
        """Decode; features are already repeated per object."""
