"""What every builder does, whatever the family of its backbone."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from segkit.adapters.base import Adapter
from segkit.backbones.base import Backbone
from segkit.decoders.base import Decoder
from segkit.decoders.query import QueryDecoder
from segkit.models.recipe import BackboneOrigin, Part, Recipe, Trainable
from segkit.models.segmenter import Segmenter
from segkit.models.sources import Default, require_weights
from segkit.prompts.base import PromptEncoder
from segkit.typing import BackboneSpec


@dataclass(frozen=True, slots=True)
class Modules:
    """The parts of a model before anything is trained; prompt and mask parts are upstream's."""

    backbone: Backbone
    prompt: nn.Module
    mask: nn.Module
    sha256: str


@dataclass(frozen=True, slots=True)
class Builder(ABC):
    """Callable that builds a `Segmenter` of one size.

    `weights`: what `checkpoint=None` means, "required", "random" or "package".
    """

    sizes: Any
    weights: Default = "required"
    summary: str = ""
    source: str = ""

    mask_decoder: ClassVar[Callable[..., Decoder]]
    prompt_encoder: ClassVar[Callable[..., PromptEncoder]]

    @property
    def name(self) -> str:
        """Name of the builder and of its backbone."""
        return self.sizes.name

    def __call__(
        self,
        *,
        checkpoint: str | Path | None = None,
        adapter: Callable[[BackboneSpec], nn.Module] = Adapter,
        decoder: Callable[..., Decoder] | None = None,
        prompt_encoder: Callable[..., PromptEncoder] | None = None,
        classes: int | None = None,
        trainable: Trainable = "adapter",
        image_size: int | None = None,
        checkpointing: bool = False,
    ) -> Segmenter:
        """Build a model.

        `checkpoint` is a file of weights, or "random" (or "random:SEED") for tests; under
        `torch.device("meta")` nothing is filled in. With `classes`
        the model is automatic and segments that many classes besides the background; without, it
        is interactive. `image_size` is the side of the input in pixels the adapter should expect,
        the training size of the weights by default; any multiple of the patch size works.
        `checkpointing` trades time for memory in training.

        Raises:
            CheckpointError: Weights are missing, damaged, or of another model.
        """
        require_weights(checkpoint, name=self.name, default=self.weights)
        modules = self.modules(
            checkpoint,
            adapter,
            image_size=self._image_size(image_size),
            trainable=trainable == "all",
            checkpointing=checkpointing,
        )
        make_prompts = prompt_encoder or type(self).prompt_encoder
        make_decoder = self._decoder(decoder, classes)
        recipe = Recipe(
            BackboneOrigin(self.name, modules.sha256, modules.backbone.spec.image_size),
            adapter=Part.of(adapter),
            decoder=Part.of(make_decoder),
            prompt=Part.of(make_prompts),
            trainable=trainable,
        )
        return Segmenter(
            modules.backbone,
            make_prompts(modules.prompt),
            make_decoder(modules.mask),
            trainable=trainable,
            recipe=recipe,
        )

    @abstractmethod
    def modules(
        self,
        checkpoint: str | Path | None,
        adapter: Callable[[BackboneSpec], nn.Module],
        *,
        image_size: int,
        trainable: bool,
        checkpointing: bool,
    ) -> Modules:
        """Build the parts and load their weights."""

    def _decoder(
        self, decoder: Callable[..., Decoder] | None, classes: int | None
    ) -> Callable[..., Decoder]:
        """Choose the decoder by what was asked for."""
        if classes is None:
            return decoder or type(self).mask_decoder
        return partial(decoder or QueryDecoder, classes=classes)

    def _image_size(self, image_size: int | None) -> int:
        side, patch = image_size or self.sizes.image_size, self.sizes.patch_size
        if side < patch or side % patch:
            raise ValueError(f"image_size must be a multiple of the patch size {patch}, got {side}")
        return side
