"""What every decoder is."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from segkit.typing import Features, MaskPrediction


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Encoded prompts: `sparse` tokens, a `dense` map and the position encoding of its cells."""

    sparse: Float[Tensor, "objects tokens dim"]
    dense: Float[Tensor, "objects dim rows cols"]
    positions: Float[Tensor, "1 dim rows cols"]


class Decoder(nn.Module):
    """Turn features and prompt tokens into masks; `None` asks for the automatic mode."""

    @abstractmethod
    def forward(self, features: Features, prompts: PromptTokens | None) -> MaskPrediction:
        """Decode; features are already repeated per object."""
