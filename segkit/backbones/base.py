"""What every backbone is: a frozen encoder, a specification and one adapter."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from segkit.typing import BackboneSpec, Features, Grid, Image

Stem = tuple[Tensor, ...]

_VARYING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


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
    has_stem: ClassVar[bool] = False
    """Whether `stem` is offered."""

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
        """Encode images with values in [0, 1].

        Where `has_stem`, a third argument takes what `stem` gave for these images.
        """

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.trainable:
            self.encoder.eval()
        return self

    @property
    def is_fixed(self) -> bool:
        """Whether the same image gives the same features for as long as training lasts."""
        if not self.has_stem:
            return False
        parts = (self.encoder, self.adapter)
        is_trained = any(weight.requires_grad for part in parts for weight in part.parameters())
        varies = any(module.training and isinstance(module, _VARYING) for module in self.modules())
        return not is_trained and not varies

    @property
    def frozen_blocks(self) -> int:
        """Leading blocks whose output no training changes; all of them if `is_fixed`."""
        if self.is_fixed:
            return len(self.spec.blocks)
        return 0 if self.trainable or not self.has_stem else int(self.adapter.untouched)

    def stem(self, image: Image, grid: Grid) -> Stem:
        """What no training changes, for `forward`: features, or tokens on the way to them.

        Each tensor has one row per image. Only where `has_stem`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no stem to keep")

    @property
    def trained_parts(self) -> dict[str, nn.Module]:
        """Parts that are trained while the encoder is frozen, by attribute name."""
        return {"adapter": self.adapter}

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.encoder.parameters()).device
