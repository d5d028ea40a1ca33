"""SAM's mask decoder without prompts, as released methods train it."""

from jaxtyping import Int
from segment_anything.modeling import MaskDecoder as UpstreamMaskDecoder
from torch import Tensor
from typing_extensions import override

from segkit.decoders.base import Decoder
from segkit.decoders.mask import MaskDecoder
from segkit.typing import Features, MaskPrediction, PromptTokens


class FirstMaskDecoder(Decoder):
    """Segment one class with SAM's mask 0; the other mask tokens only take part in attention.

    Source: "SAM-Adapter" (Chen et al., 2023, arXiv 2304.09148), released code. `QueryDecoder` is
    the form for new models: it has no idle tokens and serves any number of classes.

    Example:
        >>> import torch
        >>> from segkit.models import build
        >>> segmenter = build.sam_tiny(decoder=FirstMaskDecoder, classes=1)
        >>> segmenter(torch.rand(2, 3, 64, 64)).logits.shape
        torch.Size([2, 1, 32, 32])
    """

    is_automatic = True

    def __init__(self, module: UpstreamMaskDecoder, *, classes: int = 1) -> None:
        super().__init__()
        if classes != 1:
            raise ValueError(f"classes must be 1, got {classes}; use QueryDecoder for several")
        self.classes = classes
        self.masks = MaskDecoder(module)

    @override
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
    ) -> MaskPrediction:
        return self.masks(features, prompts, image_index)
