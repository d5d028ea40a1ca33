"""An image and a text encoder with a common feature space."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.errors import InputError
from segkit.text.settings import SaliencySettings
from segkit.text.towers import tower_of
from segkit.typing import Image

Tokenizer = Callable[[Sequence[str]], Int[Tensor, "texts context"]]
Vectors = Float[Tensor, "n features"]
LEAST_DEVIATION = 1 / 255
"""Of a channel that is brought to deviation 1; flat images stay flat."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Facts about an encoder.

    `image_size` is the side of its square input in pixels. `mean` and `std` normalise values in
    [0, 1]; without them each channel of an image is brought to mean 0 and deviation 1. `sha256` is
    that of its weight file, `saliency` what suits it.
    """

    name: str
    image_size: int
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    sha256: str = ""
    saliency: SaliencySettings = field(default_factory=SaliencySettings)


class TextImageEncoder(nn.Module):
    """A contrastive pair of encoders: the same direction means that a text fits an image.

    `model` has `visual`, `encode_text` and `logit_scale`, as the models of `open_clip` have.

    Raises:
        InputError: The image encoder is no vision transformer.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, *, spec: EncoderSpec) -> None:
        super().__init__()
        self.model, self.tokenizer, self.spec = model, tokenizer, spec
        self.tower = tower_of(model.visual)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Factor on cosines that the model was trained with; the inverse of a temperature."""
        return self.model.logit_scale.exp().reshape(())  # type: ignore[operator]

    def pixels(self, images: Image) -> Image:
        """Scale images in [0, 1] to the square input, whatever their aspect, and normalise."""
        size = (self.spec.image_size,) * 2
        if images.shape[-2:] != size:
            images = F.interpolate(
                images, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        if self.spec.mean is None or self.spec.std is None:
            deviation, centre = torch.std_mean(images, dim=(2, 3), keepdim=True)
            return (images - centre) / deviation.clamp(min=LEAST_DEVIATION)
        mean, std = (
            images.new_tensor(value)[:, None, None] for value in (self.spec.mean, self.spec.std)
        )
        return (images - mean) / std

    def encode_image(self, pixels: Image) -> Vectors:
        """Unit vectors of images that `pixels` prepared."""
        return F.normalize(self.tower(pixels), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts.

        Raises:
            InputError: There is none, or one is empty.
        """
        if not texts or not all(text.strip() for text in texts):
            raise InputError(f"texts must not be empty, got {list(texts)}", fix="say it in words")
        return F.normalize(self.model.encode_text(self.tokens(texts)), dim=-1)  # type: ignore[operator]

    def encode_ensemble(self, wordings: Sequence[str]) -> Float[Tensor, " features"]:
        """Unit vector of several wordings of one meaning: the mean of theirs."""
        return F.normalize(self.encode_text(wordings).mean(dim=0), dim=0)

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "texts context"]:
        """Token numbers on the device of the model."""
        return self.tokenizer(list(texts)).to(self.device)

    @override
    def forward(self, images: Image, texts: Sequence[str]) -> Float[Tensor, "images texts"]:
        """Cosines between images in [0, 1] and texts."""
        return self.encode_image(self.pixels(images)) @ self.encode_text(texts).T
