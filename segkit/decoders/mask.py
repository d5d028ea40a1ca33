"""SAM's mask decoder for many objects on many images."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from segment_anything.modeling import MaskDecoder as UpstreamMaskDecoder
from torch import Tensor
from typing_extensions import override

from segkit.decoders.base import Decoder, select, with_dense
from segkit.decoders.image_memo import ImageMemo, added
from segkit.decoders.two_way import draw, two_way
from segkit.typing import Features, MaskPrediction, PromptTokens

Attention = Literal["sdpa", "eager"]


class MaskDecoder(Decoder):
    """Decode one mask, or three alternatives, per prompted object.

    Source: "Segment Anything" (Kirillov et al., ICCV 2023), appendix A. Difference: objects of
    several images are decoded in one batch, and an image is repeated only here. Where the prompts
    were drawn as logits (`nano`), every mask is that drawing plus what the decoder adds, and the
    alternatives are the three best of all four masks, by predicted IoU.
    `attention="eager"` calls the official modules as they are and equals the official decoder bit
    for bit; "sdpa" computes the same function with fewer operations.

    Example:
        >>> import segkit
        >>> from segment_anything.modeling import MaskDecoder as Official, TwoWayTransformer
        >>> module = Official(transformer_dim=32, transformer=TwoWayTransformer(2, 32, 4, 64))
        >>> maps, sparse = torch.rand(1, 32, 4, 6), torch.rand(5, 1, 32)
        >>> tokens = PromptTokens(sparse, torch.zeros(5, 32, 4, 6), torch.zeros(1, 32, 4, 6))
        >>> features = Features((maps,), segkit.typing.Grid((1, 64, 96)))
        >>> MaskDecoder(module)(features, tokens, multimask=True).logits.shape
        torch.Size([5, 3, 16, 24])
    """

    def __init__(self, module: UpstreamMaskDecoder, *, attention: Attention = "sdpa") -> None:
        super().__init__()
        if attention not in get_args(Attention):
            raise ValueError(f"attention must be one of {get_args(Attention)}, got {attention!r}")
        if hasattr(module, "conv_s0"):
            raise ValueError("this is the decoder of a SAM 2; use Sam2MaskDecoder or QueryDecoder")
        self.module, self.attention = module, attention
        self._memo = ImageMemo()

    @override
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
    ) -> MaskPrediction:
        if multimask and prompts.drawn is not None:
            return _best_three(self.every_mask(features, prompts, image_index))
        chosen = slice(1, None) if multimask else slice(0, 1)
        return self._masks(features, prompts, image_index, chosen)

    def every_mask(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
    ) -> MaskPrediction:
        """Return mask 0, meant for clear prompts, and the alternatives 1 to 3."""
        return self._masks(features, prompts, image_index, slice(None))

    def _masks(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None,
        chosen: slice,
    ) -> MaskPrediction:
        """Draw the masks `chosen` of the four."""
        objects = len(prompts.sparse)
        output = torch.cat([self.module.iou_token.weight, self.module.mask_tokens.weight])
        tokens = torch.cat([output.expand(objects, -1, -1), prompts.sparse], dim=1)

        if self.attention == "eager":
            image = select(features.levels[-1], objects, image_index) + prompts.dense
            # one position map broadcasts over the objects: no copy
            tokens, cells = self.module.transformer(image, prompts.positions, tokens)
            cells = cells.transpose(1, 2).view_as(image)
            pixels = self.module.output_upscaling(cells)
            # all four in one product, whose rounding may depend on their number
            logits = (self._weights(tokens) @ pixels.flatten(2)).unflatten(2, pixels.shape[2:])
            logits = logits[:, chosen]
        else:
            maps, transformer = features.levels[-1], self.module.transformer
            known = None if image_index is not None else self._memo(maps, prompts, transformer)
            seen = known or with_dense(maps, prompts.dense, image_index)
            more = None if known is None else added(prompts)
            tokens, cells = two_way(transformer, seen, prompts.positions, tokens, more)
            size = (maps.shape[2], maps.shape[3])
            weights = self._weights(tokens, chosen)
            logits = draw(self.module.output_upscaling, cells, weights, size)
        if prompts.drawn is not None:
            logits = logits + prompts.drawn
        return MaskPrediction(logits, self.module.iou_prediction_head(tokens[:, 0])[:, chosen])

    def _weights(
        self, tokens: Float[Tensor, "objects tokens dim"], chosen: slice = slice(None)
    ) -> Float[Tensor, "objects masks channels"]:
        heads = list(enumerate(self.module.output_hypernetworks_mlps))
        if torch.is_grad_enabled():  # distributed training expects gradients of all of them
            return torch.stack([head(tokens[:, 1 + i]) for i, head in heads], dim=1)[:, chosen]
        return torch.stack([head(tokens[:, 1 + i]) for i, head in heads[chosen]], dim=1)


def _best_three(every: MaskPrediction) -> MaskPrediction:
    """Keep the three masks of highest predicted IoU: mask 0 may be the best answer to a click."""
    iou, index = every.iou.topk(3, dim=1)
    rows = torch.arange(len(index), device=index.device)[:, None]
    return MaskPrediction(every.logits[rows, index], iou)
