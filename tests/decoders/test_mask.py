"""The interactive decoder against the official one."""

from dataclasses import replace

import pytest
import torch

from segkit.backbones.sam_modules import TINY, SamModules
from segkit.decoders.mask import MaskDecoder
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import Features, Grid, Prompts, PromptTokens

SIZE = (64, 64)


@pytest.fixture
def modules() -> SamModules:
    torch.manual_seed(0)
    return SamModules(TINY).eval()


def features(count: int) -> Features:
    maps = torch.randn(count, 32, 8, 8, generator=torch.Generator().manual_seed(1))
    return Features((maps,), Grid((1, *SIZE)))


def tokens(modules: SamModules, count: int) -> PromptTokens:
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(count, 2, 3, generator=generator) * 64
    masks = torch.randn(count, 1, 32, 32, generator=generator)
    labels = torch.tensor([[1, 0]]).expand(count, -1)
    return SamPromptEncoder(modules.prompt_encoder)(Prompts(points, labels, masks), SIZE)


@torch.no_grad()
def test_equals_official_bit_for_bit(modules: SamModules) -> None:
    image, prompts = features(1), tokens(modules, 3)
    decoder = MaskDecoder(modules.mask_decoder, attention="eager")
    logits, iou = modules.mask_decoder.predict_masks(
        image.levels[0], prompts.positions, prompts.sparse, prompts.dense
    )
    every = decoder.every_mask(image, prompts)
    torch.testing.assert_close(every.logits, logits, rtol=0, atol=0)
    torch.testing.assert_close(every.iou, iou, rtol=0, atol=0)
    for multimask in (False, True):
        logits, iou = modules.mask_decoder(
            image.levels[0], prompts.positions, prompts.sparse, prompts.dense, multimask
        )
        ours = decoder(image, prompts, multimask=multimask)
        torch.testing.assert_close(ours.logits, logits, rtol=0, atol=0)
        torch.testing.assert_close(ours.iou, iou, rtol=0, atol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_masks_start_from_what_was_drawn(modules: SamModules, attention: str) -> None:
    plain = tokens(modules, 3)  # and the image anew each time, so that nothing is known of it
    drawn = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    decoder = MaskDecoder(modules.mask_decoder, attention=attention)
    found = decoder.every_mask(features(1), replace(plain, drawn=drawn))
    before = decoder.every_mask(features(1), plain)
    torch.testing.assert_close(found.logits, before.logits + drawn)
    assert torch.equal(found.iou, before.iou)
    offered = decoder(features(1), replace(plain, drawn=drawn), multimask=True)
    order = found.iou.argsort(dim=1, descending=True)[:, :3]
    assert torch.equal(offered.iou, found.iou.gather(1, order))
    for row in range(3):
        assert torch.equal(offered.logits[row], found.logits[row, order[row]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masks_drawn_alone_equal_those_among_all_four(modules: SamModules, attention: str) -> None:
    image, prompts = features(1), tokens(modules, 3)
    decoder = MaskDecoder(modules.mask_decoder, attention=attention)
    with torch.no_grad():
        every = decoder.every_mask(image, prompts)
    for multimask, chosen in ((False, slice(0, 1)), (True, slice(1, 4))):
        modules.zero_grad()
        found = decoder(image, prompts, multimask=multimask)
        torch.testing.assert_close(found.logits, every.logits[:, chosen], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.iou, every.iou[:, chosen])
        # distributed training expects a gradient for every parameter
        (found.logits.sum() + found.iou.sum()).backward()
        assert all(one.grad is not None for one in modules.mask_decoder.parameters())


@torch.no_grad()
def test_objects_of_several_images_equal_one_image_at_a_time(modules: SamModules) -> None:
    images, prompts = features(3), tokens(modules, 4)
    index = torch.tensor([2, 0, 2, 1])
    together = MaskDecoder(modules.mask_decoder)(images, prompts, index).logits
    for row, image in enumerate(index.tolist()):
        alone, _ = modules.mask_decoder(
            images.levels[0][image][None],
            prompts.positions,
            prompts.sparse[row][None],
            prompts.dense[row][None],
            multimask_output=False,
        )
        torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_only_the_coarsest_level_is_read(modules: SamModules) -> None:
    image, prompts = features(1), tokens(modules, 1)
    pyramid = Features((torch.full((1, 8, 32, 32), torch.nan), *image.levels), image.grid)
    # decoders that have not seen the image before
    found, expected = (
        MaskDecoder(modules.mask_decoder)(seen, prompts).logits for seen in (pyramid, image)
    )
    assert found.equal(expected)


def test_unknown_attention_is_refused(modules: SamModules) -> None:
    with pytest.raises(ValueError, match=r"attention must be one of .*got 'flash'"):
        MaskDecoder(modules.mask_decoder, attention="flash")
