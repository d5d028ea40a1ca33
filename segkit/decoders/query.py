"""All classes of an image in one pass: learned queries in place of prompts."""

from copy import deepcopy

import torch
from jaxtyping import Int
from segment_anything.modeling import MaskDecoder as UpstreamMaskDecoder
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from typing_extensions import override

from segkit.decoders.base import Decoder, with_dense
from segkit.decoders.sam2_mask import finer_levels, without_memory
from segkit.decoders.two_way import draw, two_way
from segkit.typing import Features, MaskPrediction, PromptTokens

INIT_NOISE = 0.02
"""Standard deviation added to each copied token, so that classes can part."""


class QueryDecoder(Decoder):
    """Decode K classes at once; channel c of the logits is class c + 1, background has logit 0.

    Source: SAM's mask decoder ("Segment Anything", Kirillov et al., ICCV 2023) without prompts, as
    in "SAM-Adapter" (Chen et al., 2023). Difference: mask token 0, its hyper-network and its IoU
    output are copied once per class and trained, so one pass through the transformer serves all
    classes. The IoU head predicts one value per class. On SAM 2 the fine feature levels take part.

    Example:
        >>> from segkit.models import build
        >>> segmenter = build.sam_tiny(classes=3)
        >>> segmenter.decode(segmenter.encode(torch.rand(2, 3, 64, 64))).logits.shape
        torch.Size([2, 3, 32, 32])
    """

    is_automatic = True

    def __init__(self, module: UpstreamMaskDecoder, *, classes: int = 1) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be >= 1 without the background, got {classes}")
        self.classes = classes
        self.transformer = module.transformer
        self.output_upscaling = module.output_upscaling
        self.iou_token = module.iou_token
        token = module.mask_tokens.weight.detach()[:1].expand(classes, -1)
        self.class_tokens = nn.Parameter(token + INIT_NOISE * torch.randn_like(token))
        first = module.output_hypernetworks_mlps[0]
        self.class_heads = nn.ModuleList(deepcopy(first) for _ in range(classes))
        self.iou_head = _one_output_per_class(module.iou_prediction_head, classes)
        self.is_sam2 = hasattr(module, "conv_s0")
        if self.is_sam2:
            # run by the backbone, kept here to be trained and stored with the decoder
            self.high_res = nn.ModuleList([module.conv_s0, module.conv_s1])
            self.no_mem_embed = module.no_mem_embed.requires_grad_(False)

    @override
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
    ) -> MaskPrediction:
        count = len(prompts.dense)
        if self.is_sam2:
            features = without_memory(features, self.no_mem_embed)
        image = with_dense(features.levels[-1], prompts.dense, image_index)
        output = torch.cat([self.iou_token.weight, self.class_tokens])
        tokens = torch.cat([output.expand(count, -1, -1), prompts.sparse], dim=1)
        tokens, cells = two_way(self.transformer, image, prompts.positions, tokens)
        weights = torch.stack(
            [head(tokens[:, 1 + index]) for index, head in enumerate(self.class_heads)], dim=1
        )
        finer = finer_levels(features, image_index) if self.is_sam2 else None
        size = (image.shape[2], image.shape[3])
        logits = draw(self.output_upscaling, cells, weights, size, finer)
        return MaskPrediction(logits, self.iou_head(tokens[:, 0]))


def _one_output_per_class(head: MLP, classes: int) -> MLP:
    """Copy the IoU head; every class starts with the output of mask token 0."""
    head = deepcopy(head)
    last = head.layers[-1]
    layer = nn.Linear(last.in_features, classes).to(last.weight)
    with torch.no_grad():
        layer.weight.copy_(last.weight[:1].expand_as(layer.weight))
        layer.bias.copy_(last.bias[:1].expand_as(layer.bias))
    head.layers[-1] = layer
    return head
