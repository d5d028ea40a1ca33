"""One linear layer per feature level: output layers of a U-Net, or a linear probe."""

from typing import cast

from jaxtyping import Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.decoders.base import Decoder
from segkit.typing import Features, MaskPrediction, PromptTokens


class LinearDecoder(Decoder):
    """Classify every cell of the features on its own, without prompts.

    `module` is either a list of output convolutions, one per feature level, finest first (a
    U-Net's own), whose weights are kept where they already have one output per class and one for
    the background; or the mask decoder of a SAM, whose width a new layer on the coarsest level is
    given (a linear probe). The logit of the background is subtracted from the others, which leaves
    a soft-max unchanged. There is no estimate of the IoU: it is 0.

    Example:
        >>> from segkit.models import build
        >>> segmenter = build.sam_tiny(decoder=LinearDecoder, classes=3)
        >>> segmenter(torch.rand(2, 3, 64, 64)).logits.shape
        torch.Size([2, 3, 8, 8])
    """

    is_automatic = True

    def __init__(self, module: nn.Module, *, classes: int = 1) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be >= 1 without the background, got {classes}")
        self.classes = classes
        if isinstance(module, nn.ModuleList):
            self.heads = nn.ModuleList(_fitted(layer, classes + 1) for layer in module)
        else:
            width = cast(int, module.transformer_dim)
            self.heads = nn.ModuleList([nn.Conv2d(width, classes + 1, 1)])

    @override
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
    ) -> MaskPrediction:
        return self._predict(self.heads[0], features.levels[-len(self.heads)])

    def every_level(self, features: Features) -> tuple[MaskPrediction, ...]:
        """Masks of all levels, finest first, for a loss at every resolution."""
        levels = features.levels[-len(self.heads) :]
        pairs = zip(self.heads, levels, strict=True)
        return tuple(self._predict(head, level) for head, level in pairs)

    def _predict(self, head: nn.Module, level: Tensor) -> MaskPrediction:
        scores = head(level)
        logits = scores[:, 1:] - scores[:, :1]
        return MaskPrediction(logits, logits.new_zeros(len(logits), self.classes))


def _fitted(layer: nn.Module, outputs: int) -> nn.Module:
    """The layer itself, or a new one of its kind with another number of outputs."""
    conv = cast(nn.Conv3d, layer)
    if conv.out_channels == outputs:
        return conv
    return type(conv)(conv.in_channels, outputs, 1, device=conv.weight.device)
