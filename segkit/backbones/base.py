"""What every backbone is: a frozen encoder, a specification and one adapter."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from typing_extensions import override

from segkit.typing import BackboneSpec, Features, Grid, Image


class Backbone(nn.Module):
    """Frozen encoder whose blocks are looped over by segkit, with one adapter around them.

    The adapter arrives as a module that follows the protocol of `segkit.adapters.Adapter`;
    backbones know it only by its methods. `trainable=True` unfreezes the encoder (full
    fine-tuning). `sha256` is the hash of the weight file, or of the weights themselves; who loads
    the weights sets it.
    """

    encoder: nn.Module
    adapter: Any  # a module with the methods of segkit.adapters.Adapter
    spec: BackboneSpec
    sha256: str = ""

    def __init__(
        self,
        encoder: nn.Module,
        spec: BackboneSpec,
        adapter: Callable[[BackboneSpec], nn.Module],
        *,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.spec, self.encoder, self.trainable = spec, encoder, trainable
        encoder.requires_grad_(trainable)
        encoder.train(trainable)
        self.adapter = adapter(spec)
        self.adapter.attach(encoder)

    @classmethod
    @abstractmethod
    def tiny(cls, adapter: Callable[[BackboneSpec], nn.Module]) -> Self:
        """Build the smallest member of the family with the same random weights on each call.

        For examples and for the tests that every adapter must pass on every backbone; images of
        64 x 64 pixels are its native size.
        """

    @abstractmethod
    def forward(self, image: Image, grid: Grid) -> Features:
        """Encode images with values in [0, 1]."""

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.trainable:
            self.encoder.eval()
        return self

    @property
    def trained_parts(self) -> dict[str, nn.Module]:
        """Parts that are trained while the encoder is frozen, by attribute name."""
        return {"adapter": self.adapter}

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.encoder.parameters()).device
