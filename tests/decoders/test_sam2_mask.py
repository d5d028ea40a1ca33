"""Sam2MaskDecoder: objects and images, fine levels, memory marker, choice of masks."""

import pytest
import torch
from torch import Tensor

from segkit.decoders import FirstMaskDecoder, MaskDecoder, QueryDecoder, Sam2MaskDecoder
from segkit.decoders.sam2_mask import Sam2Masks
from segkit.decoders.two_way import in_cells
from segkit.models import build
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Prompts


@pytest.fixture
def segmenter() -> Segmenter:
    return build.sam2_test().eval()


@pytest.fixture
def features(segmenter: Segmenter) -> Features:
    return segmenter.encode(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))


def clicks(count: int) -> Prompts:
    points = 60 * torch.rand(count, 1, 3, generator=torch.Generator().manual_seed(1))
    return Prompts(points, torch.ones(count, 1, dtype=torch.long))


@torch.no_grad()
def test_objects_of_several_images_equal_each_alone(
    segmenter: Segmenter, features: Features
) -> None:
    prompts, index = clicks(3), torch.tensor([1, 0, 1])
    many = Prompts(prompts.points, prompts.labels, image_index=index)
    together = segmenter.decode(features, many, multimask=True)
    for row, image in enumerate(index.tolist()):
        mine = Prompts(prompts.points[[row]], prompts.labels[[row]])
        alone = segmenter.decode(features[[image]], mine, multimask=True)
        torch.testing.assert_close(together.logits[[row]], alone.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.iou[[row]], alone.iou, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_image_serves_all_objects(segmenter: Segmenter, features: Features) -> None:
    prompts = clicks(3)
    named = Prompts(prompts.points, prompts.labels, image_index=torch.zeros(3, dtype=torch.long))
    shared = segmenter.decode(features[[0]], prompts).logits
    torch.testing.assert_close(shared, segmenter.decode(features, named).logits)


@pytest.mark.parametrize("kind", [Sam2MaskDecoder, QueryDecoder])
@pytest.mark.parametrize("level", [0, 1])
@torch.no_grad()
def test_every_level_matters(kind: type, level: int, features: Features) -> None:
    is_query = kind is QueryDecoder
    segmenter = build.sam2_test(decoder=kind, classes=2 if is_query else None).eval()
    levels = list(features.levels)
    levels[level] = levels[level].flip(1)
    prompts = None if is_query else clicks(2)
    changed = segmenter.decode(Features(tuple(levels), features.grid), prompts).logits
    assert not changed.allclose(segmenter.decode(features, prompts).logits)


@torch.no_grad()
def test_fine_levels_meet_the_pixels_they_belong_to(
    segmenter: Segmenter, features: Features
) -> None:
    fine = features.levels[0].clone()
    fine[:, :, 5, 17] += 100
    changed = Features((fine, *features.levels[1:]), features.grid)
    before, after = (segmenter.decode(f, clicks(2)).logits for f in (features, changed))
    rows, cols = (before != after).any(0)[0].nonzero().unbind(1)
    assert (set(rows.tolist()), set(cols.tolist())) == ({5}, {17})


@pytest.mark.parametrize("steps", [1, 2])
def test_in_cells_orders_pixels_by_cell(steps: int) -> None:
    side = 2**steps
    maps = torch.arange(2 * side * 3 * side).view(1, 1, 2 * side, 3 * side).float()
    cells = in_cells(maps, steps).view(6, -1)
    for cell in range(6):
        row, col = cell // 3 * side, cell % 3 * side
        patch = maps[0, 0, row : row + side, col : col + side]
        assert sorted(cells[cell].tolist()) == sorted(patch.flatten().tolist())


@torch.no_grad()
def test_single_images_are_marked_as_frames_without_memory(
    segmenter: Segmenter, features: Features
) -> None:
    decoder = segmenter.decoder
    tokens = segmenter.prompt_encoder(clicks(2), (64, 96))
    marked = features.levels[2] + decoder.module.no_mem_embed.view(1, -1, 1, 1)
    by_hand = Features((*features.levels[:2], marked), features.grid)
    expected = decoder.choose(decoder.every_mask(by_hand, tokens)).logits
    assert decoder(features, tokens).logits.equal(expected)
    assert not decoder.module.no_mem_embed.requires_grad


def masks(single: Tensor) -> Sam2Masks:
    """Mask 0 as given, alternatives that are 1, 2 and 3 everywhere, the second the best."""
    others = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, *single.shape)
    logits = torch.cat([single[None, None], others], dim=1)
    tokens = torch.arange(4.0).view(1, 4, 1)
    return Sam2Masks(logits, torch.tensor([[0.5, 0.1, 0.9, 0.2]]), tokens, torch.zeros(1, 1))


STABLE, DOUBTFUL = torch.tensor([[4.0, -4.0], [4.0, -4.0]]), torch.full((2, 2), 0.01)


@pytest.mark.parametrize(
    ("single", "training", "fallback", "expected"),
    [
        (STABLE, False, True, 0.5),
        (DOUBTFUL, False, True, 0.9),
        (torch.full((2, 2), -4.0), False, True, 0.5),  # nothing at all is stable
        (DOUBTFUL, True, True, 0.5),
        (DOUBTFUL, False, False, 0.5),
    ],
)
def test_a_doubtful_mask_gives_way(
    single: Tensor, training: bool, fallback: bool, expected: float
) -> None:
    segmenter = build.sam2_test()
    decoder = Sam2MaskDecoder(segmenter.decoder.module, stability_fallback=fallback)
    chosen = decoder.train(training).choose(masks(single))
    assert chosen.iou.item() == pytest.approx(expected)
    assert chosen.logits.equal(torch.full((1, 1, 2, 2), 2.0)) == (expected == 0.9)
    assert chosen.tokens.item() == 0.0  # the pointer is made of mask 0 all the same


def test_alternatives_keep_their_tokens() -> None:
    every = build.sam2_test().decoder.choose(masks(STABLE), multimask=True)
    assert every.tokens.flatten().tolist() == [1.0, 2.0, 3.0]
    assert every.best().tokens.item() == 2.0


def test_narrowing_layers_are_trained_and_stored_once_with_the_decoder() -> None:
    segmenter = build.sam2_test()
    state = segmenter.trainable_state()
    assert {"decoder.module.conv_s0.weight", "decoder.module.conv_s1.bias"} <= state.keys()
    assert not [name for name in state if "high_res" in name or "no_mem" in name]
    names = [name for name, _ in segmenter.named_parameters()]
    assert not [name for name in names if "high_res" in name]
    segmenter.decode(segmenter.encode(torch.rand(1, 3, 64, 64)), clicks(1)).logits.sum().backward()
    assert segmenter.decoder.module.conv_s0.weight.grad.any()


@pytest.mark.parametrize("kind", [MaskDecoder, FirstMaskDecoder])
def test_decoders_of_sam_refuse_the_pyramid(kind: type) -> None:
    with pytest.raises(ValueError, match="decoder of a SAM 2; use Sam2MaskDecoder or QueryDecoder"):
        build.sam2_test(decoder=kind)


def test_refuses_the_decoder_of_sam() -> None:
    with pytest.raises(ValueError, match="a SAM without a pyramid; use MaskDecoder"):
        build.sam_tiny(decoder=Sam2MaskDecoder)
