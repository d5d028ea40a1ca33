import pytest
import torch

from segkit.backbones.sam_modules import TINY, SamModules
from segkit.decoders import FirstMaskDecoder, MaskDecoder
from segkit.models import build


@torch.no_grad()
def test_equals_mask_0_of_sam_without_prompts() -> None:
    segmenter = build.sam_tiny(decoder=FirstMaskDecoder)
    features = segmenter.encode(torch.rand(2, 3, 64, 64))
    tokens = segmenter.prompt_encoder.empty(2, (64, 64))
    expected = MaskDecoder(segmenter.decoder.masks.module)(features, tokens)
    torch.testing.assert_close(segmenter.decode(features).logits, expected.logits, rtol=0, atol=0)


def test_several_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"classes must be 1, got 2; use QueryDecoder"):
        FirstMaskDecoder(SamModules(TINY).mask_decoder, classes=2)
