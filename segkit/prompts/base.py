"""What every prompt encoder is."""

from abc import abstractmethod

from torch import nn

from segkit.typing import Features, Prompts, PromptTokens


class PromptEncoder(nn.Module):
    """Turn marks in pixels of the model input into tokens for a decoder."""

    @abstractmethod
    def forward(self, prompts: Prompts, size: tuple[int, int]) -> PromptTokens:
        """Encode marks on a model input of `size` (height, width)."""

    @abstractmethod
    def empty(self, count: int, size: tuple[int, int]) -> PromptTokens:
        """Encode the absence of marks for `count` images (automatic mode)."""

    def tokens(self, features: Features, prompts: Prompts | None) -> PromptTokens:
        """Encode marks, or their absence, for a decoder of these features.

        An encoder that reads the features under the marks overrides this.
        """
        if prompts is None:
            return self.empty(len(features.levels[-1]), features.grid.size)
        return self(prompts, features.grid.size)
