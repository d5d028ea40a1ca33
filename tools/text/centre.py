"""A start from which features of different images and texts point in different directions."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segkit.text.encoder import TextImageEncoder
from segkit.typing import Image


@torch.no_grad()
def centre(encoder: TextImageEncoder, images: Image, texts: Sequence[str]) -> None:
    """Take the mean direction out of both projections, in place.

    With random weights all features lie in one narrow cone: what a patch shows is a few per cent of
    the mean over patches, and hundreds of steps go into getting rid of the rest. `images` are in
    [0, 1]; the encoder is a small one of `segkit.text.small`.
    """
    model: Any = encoder.model
    tower = encoder.tower
    pixels = encoder.pixels(images)
    pooled, _ = model.visual._pool(tower.run(tower.embed(pixels), 0, len(tower.blocks)))
    model.visual.proj.copy_(_without(pooled, model.visual.proj))
    projection, model.text_projection = model.text_projection, None
    raw = model.encode_text(encoder.tokens(texts))
    model.text_projection = projection
    projection.copy_(_without(raw, projection))


def _without(
    features: Float[Tensor, "n dim"], projection: Float[Tensor, "dim out"]
) -> Float[Tensor, "dim out"]:
    """The projection after one that removes the mean of the features."""
    mean = torch.nn.functional.normalize(features.mean(dim=0), dim=0)
    return projection - torch.outer(mean, mean @ projection)
