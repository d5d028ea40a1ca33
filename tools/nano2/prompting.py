"""What the recipe asks of a model: all four masks, for objects with and without earlier masks."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from segkit.decoders.sam2_mask import Sam2Masks
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Prompts
from tools.nano.step import Marks


def prompts_of(marks: Marks, image_index: Tensor | None = None) -> Prompts:
    """The marks as model prompts: XY pixels become (k, j, i)."""
    points = torch.cat([torch.zeros_like(marks.points[..., :1]), marks.points.flip(-1)], dim=-1)
    return Prompts(points.float(), marks.labels.long(), marks.previous, image_index)


def decode(
    segmenter: Segmenter,
    features: Features,
    marks: Marks,
    owner: Tensor,
    has_mask: Float[Tensor, " objects"] | None = None,
) -> Sam2Masks:
    """All four masks; object o lies on image `owner[o]`, `features` go in as they are.

    Objects whose `has_mask` is 0 are decoded without their earlier mask.
    """
    size = features.grid.size
    encoder: Any = segmenter.prompt_encoder
    decoder: Any = segmenter.decoder
    tokens = encoder(prompts_of(marks), size)
    if marks.previous is not None and has_mask is not None:
        given = has_mask.view(-1, 1, 1, 1)
        empty = encoder.empty(len(owner), size).dense
        tokens = replace(tokens, dense=given * tokens.dense + (1 - given) * empty, sketch=None)
    found: Sam2Masks = decoder.every_mask(features, tokens, owner)
    return found
