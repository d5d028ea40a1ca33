"""SAM 2's mask decoder for many objects on many images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from segkit.decoders.base import Decoder, with_dense
from segkit.decoders.two_way import draw, in_cells, two_way
from segkit.typing import Features, MaskPrediction, PromptTokens

if TYPE_CHECKING:
    from segkit.backbones.sam2_modules import Sam2MaskHead

_DELTA, _STABLE = 0.05, 0.98


@dataclass(frozen=True, slots=True)
class Sam2Masks:
    """Masks with the output tokens they were drawn from; `score` > 0: the object is visible."""

    logits: Float[Tensor, "objects masks rows cols"]
    iou: Float[Tensor, "objects masks"]
    tokens: Float[Tensor, "objects masks dim"]
    score: Float[Tensor, "objects 1"]

    def best(self) -> Sam2Masks:
        """Keep the alternative with the highest predicted IoU, and its token."""
        index = self.iou.argmax(dim=1)
        rows = torch.arange(len(index), device=index.device)
        return Sam2Masks(
            self.logits[rows, index][:, None],
            self.iou[rows, index][:, None],
            self.tokens[rows, index][:, None],
            self.score,
        )


class Sam2MaskDecoder(Decoder):
    """Decode one mask, or three alternatives, per prompted object, with the fine feature levels.

    Source: "SAM 2" (Ravi et al., 2024), appendix D.1. Differences: objects of several images are
    decoded in one batch, and a single image is never copied per object.

    `forward` decodes features as the encoder returns them and adds the embedding that stands for
    "no memory"; a tracker calls `every_mask` and `choose` on features that have seen its memory.
    With `stability_fallback`, a single mask whose area hangs on the threshold gives way to the best
    of the three alternatives, in evaluation only, as in the official predictors.

    Example:
        >>> from segkit.models import build
        >>> segmenter = build.sam2_test()
        >>> features = segmenter.encode(torch.rand(1, 3, 64, 96))
        >>> tokens = segmenter.prompt_encoder.empty(5, (64, 96))
        >>> segmenter.decoder(features, tokens, multimask=True).logits.shape
        torch.Size([5, 3, 16, 24])
    """

    def __init__(self, module: Sam2MaskHead, *, stability_fallback: bool = True) -> None:
        super().__init__()
        if not hasattr(module, "conv_s0"):
            raise ValueError("this is the decoder of a SAM without a pyramid; use MaskDecoder")
        self.module, self.stability_fallback = module, stability_fallback
        module.no_mem_embed.requires_grad_(False)

    @override
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
    ) -> MaskPrediction:
        features = without_memory(features, self.module.no_mem_embed)
        chosen = self.choose(self.every_mask(features, prompts, image_index), multimask=multimask)
        return MaskPrediction(chosen.logits, chosen.iou)

    def every_mask(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
    ) -> Sam2Masks:
        """Return mask 0, meant for clear prompts, and the alternatives 1 to 3.

        The coarsest level is used as it is.
        """
        module, objects = self.module, len(prompts.sparse)
        image = with_dense(features.levels[-1], prompts.dense, image_index)
        output = torch.cat(
            [module.obj_score_token.weight, module.iou_token.weight, module.mask_tokens.weight]
        )
        tokens = torch.cat([output.expand(objects, -1, -1), prompts.sparse], dim=1)
        tokens, cells = two_way(module.transformer, image, prompts.positions, tokens)
        masks = tokens[:, 2 : 2 + module.num_mask_tokens]
        heads = enumerate(module.output_hypernetworks_mlps)
        logits = draw(
            module.output_upscaling,
            cells,
            torch.stack([head(masks[:, index]) for index, head in heads], dim=1),
            (image.shape[2], image.shape[3]),
            finer=finer_levels(features, image_index),
        )
        return Sam2Masks(
            logits,
            module.iou_prediction_head(tokens[:, 1]),
            masks,
            module.pred_obj_score_head(tokens[:, 0]),
        )

    def choose(self, every: Sam2Masks, *, multimask: bool = False) -> Sam2Masks:
        """Keep the three alternatives, or one mask.

        The single mask keeps the token of mask 0, even where an alternative is shown in its place:
        in training, object pointers are made of that token.
        """
        alternatives = Sam2Masks(
            every.logits[:, 1:], every.iou[:, 1:], every.tokens[:, 1:], every.score
        )
        if multimask:
            return alternatives
        logits, iou = every.logits[:, :1], every.iou[:, :1]
        if self.stability_fallback and not self.training:
            best, stable = alternatives.best(), _is_stable(logits)
            logits = torch.where(stable[..., None, None], logits, best.logits)
            iou = torch.where(stable, iou, best.iou)
        return Sam2Masks(logits, iou, every.tokens[:, :1], every.score)


def without_memory(features: Features, embedding: Float[Tensor, "1 1 dim"]) -> Features:
    """Mark the coarsest level as one that has seen no memory."""
    *finer, coarse = features.levels
    return Features((*finer, coarse + embedding.view(1, -1, 1, 1)), features.grid)


def finer_levels(
    features: Features, image_index: Int[Tensor, " objects"] | None
) -> tuple[Float[Tensor, "_ _ middle"], Float[Tensor, "_ _ fine"]]:
    """Levels of half and of quarter stride per object, in the order `draw` works in."""
    fine, middle, _ = features.levels
    if image_index is not None:
        fine, middle = fine[image_index], middle[image_index]
    return in_cells(middle, 1), in_cells(fine, 2)


def _is_stable(logits: Float[Tensor, "objects 1 rows cols"]) -> Tensor:
    """Whether area hardly changes with the threshold (IoU of the two areas)."""
    inner, outer = ((logits > bound).sum((2, 3)) for bound in (_DELTA, -_DELTA))
    return inner >= _STABLE * outer
