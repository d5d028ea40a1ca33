"""The automatic decoder: SAM's decoder with one learned token per class."""

import pytest
import torch

from segkit.backbones.sam_modules import TINY, SamModules
from segkit.decoders.query import QueryDecoder
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import Features, Grid

SIZE = (64, 96)


@pytest.fixture
def modules() -> SamModules:
    torch.manual_seed(0)
    return SamModules(TINY).eval()


def features(count: int) -> Features:
    maps = torch.randn(count, 32, 8, 12, generator=torch.Generator().manual_seed(1))
    return Features((maps,), Grid((1, *SIZE)))


@torch.no_grad()
def test_one_class_without_noise_is_mask_token_0_of_the_official_decoder(
    modules: SamModules,
) -> None:
    decoder = QueryDecoder(modules.mask_decoder)
    decoder.class_tokens.copy_(modules.mask_decoder.mask_tokens.weight[:1])
    image, tokens = features(1), SamPromptEncoder(modules.prompt_encoder).empty(1, SIZE)
    # the other mask tokens take part in the attention of the official decoder
    modules.mask_decoder.mask_tokens.weight = torch.nn.Parameter(decoder.class_tokens.clone())
    modules.mask_decoder.num_mask_tokens = 1
    logits, iou = modules.mask_decoder.predict_masks(
        image.levels[0], tokens.positions, tokens.sparse, tokens.dense
    )
    ours = decoder(image, tokens)
    torch.testing.assert_close(ours.logits, logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.iou, iou[:, :1], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_classes_start_close_to_each_other_but_not_equal(modules: SamModules) -> None:
    tokens = SamPromptEncoder(modules.prompt_encoder).empty(2, SIZE)
    prediction = QueryDecoder(modules.mask_decoder, classes=4)(features(2), tokens)
    assert prediction.logits.shape == (2, 4, 32, 48)
    assert prediction.iou.shape == (2, 4)
    spread = prediction.logits.std(dim=1).mean() / prediction.logits.std()
    assert 0 < spread < 0.2


def test_every_parameter_learns(modules: SamModules) -> None:
    decoder = QueryDecoder(modules.mask_decoder, classes=2)
    tokens = SamPromptEncoder(modules.prompt_encoder).empty(2, SIZE)
    prediction = decoder(features(2), tokens)
    (prediction.logits.square().mean() + prediction.iou.sum()).backward()
    # a bias of the keys cancels in the soft-max: its gradient is zero up to rounding
    silent = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in silent if not name.endswith("k_proj.bias")]


def test_classes_do_not_share_their_heads(modules: SamModules) -> None:
    decoder = QueryDecoder(modules.mask_decoder, classes=2)
    first, second = (head.layers[0].weight for head in decoder.class_heads)
    assert first.equal(second)
    assert first.data_ptr() != second.data_ptr()
    official = modules.mask_decoder.output_hypernetworks_mlps[0].layers[0].weight
    assert first.data_ptr() != official.data_ptr()


def test_no_class_is_refused(modules: SamModules) -> None:
    with pytest.raises(ValueError, match="classes must be >= 1 without the background, got 0"):
        QueryDecoder(modules.mask_decoder, classes=0)
