"""SAM's mask decoder for many objects on many images."""

import torch
from jaxtyping import Int
from segment_anything.modeling import MaskDecoder as UpstreamMaskDecoder
from torch import Tensor
from typing_extensions import override

from segkit.decoders.base import Decoder, select
from segkit.typing import Features, MaskPrediction, PromptTokens


class MaskDecoder(Decoder):
    """Decode one mask, or three alternatives, per prompted object.

    Source: "Segment Anything" (Kirillov et al., ICCV 2023), appendix A. Bit-equal to the official
    decoder; difference: objects of several images are decoded in one batch, and an image is
    repeated only here.

    Example:
        >>> from segkit.models import build
        >>> decoder = build.sam_tiny().decoder
        >>> type(decoder).__name__
        'MaskDecoder'
    """

    def __init__(self, module: UpstreamMaskDecoder) -> None:
        super().__init__()
        self.module = module

    @override
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
    ) -> MaskPrediction:
        every = self.every_mask(features, prompts, image_index)
        chosen = slice(1, None) if multimask else slice(0, 1)
        return MaskPrediction(every.logits[:, chosen], every.iou[:, chosen])

    def every_mask(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
    ) -> MaskPrediction:
        """Return mask 0, meant for clear prompts, and the alternatives 1 to 3."""
        objects = len(prompts.sparse)
        image = select(features.levels[-1], objects, image_index) + prompts.dense
        _, _, rows, cols = image.shape

        output = torch.cat([self.module.iou_token.weight, self.module.mask_tokens.weight])
        tokens = torch.cat([output.expand(objects, -1, -1), prompts.sparse], dim=1)
        # one position map broadcasts over the objects: no copy
        tokens, keys = self.module.transformer(image, prompts.positions, tokens)

        image = keys.transpose(1, 2).view(objects, -1, rows, cols)
        image = self.module.output_upscaling(image)
        heads = self.module.output_hypernetworks_mlps
        weights = torch.stack([head(tokens[:, 1 + i]) for i, head in enumerate(heads)], dim=1)
        logits = (weights @ image.flatten(2)).unflatten(2, image.shape[2:])
        return MaskPrediction(logits, self.module.iou_prediction_head(tokens[:, 0]))
