"""Sam2PromptEncoder: the padding point, mixed batches, frames without marks."""

import torch

from segkit.models import build
from segkit.prompts import Sam2PromptEncoder, SamPromptEncoder
from segkit.typing import PADDING, Prompts

SIZE = (64, 96)
BOX = Prompts(torch.tensor([[[0.0, 8, 9], [0, 50, 90]]]), torch.tensor([[2, 3]]))
CLICK = Prompts(torch.tensor([[[0.0, 8, 9]]]), torch.tensor([[1]]))


def encoder() -> Sam2PromptEncoder:
    found = build.sam2_test().prompt_encoder
    assert isinstance(found, Sam2PromptEncoder)
    return found


def test_boxes_get_the_padding_point_too() -> None:
    sam2 = encoder()
    sam = SamPromptEncoder(sam2.module)
    found, expected = sam2(BOX, SIZE).sparse, sam(BOX, SIZE).sparse
    assert found[:, :2].equal(expected)
    assert found[:, 2:].equal(sam2.module.not_a_point_embed.weight[None])
    assert sam2(CLICK, SIZE).sparse.equal(sam(CLICK, SIZE).sparse)


def test_an_object_does_not_see_the_others_of_a_mixed_batch() -> None:
    points = torch.cat([BOX.points, torch.cat([CLICK.points, torch.zeros(1, 1, 3)], dim=1)])
    both = Prompts(points, torch.tensor([[2, 3], [1, PADDING]]))
    sparse = encoder()(both, SIZE).sparse
    torch.testing.assert_close(sparse[:1], encoder()(BOX, SIZE).sparse)
    torch.testing.assert_close(sparse[1:, :2], encoder()(CLICK, SIZE).sparse)


def test_nothing_marked_is_padding_and_its_place_does_not_matter() -> None:
    one = Prompts(torch.zeros(1, 1, 3), torch.tensor([[PADDING]]))
    other = Prompts(torch.full((1, 1, 3), 33.0), torch.tensor([[PADDING]]))
    found = encoder()(one, SIZE).sparse
    assert found.equal(encoder()(other, SIZE).sparse)
    assert found.equal(encoder().module.not_a_point_embed.weight.expand(1, 2, -1))


def test_a_mask_alone_has_no_tokens() -> None:
    alone = Prompts(
        torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long), torch.rand(1, 1, 16, 24)
    )
    assert encoder()(alone, SIZE).sparse.shape == (1, 0, 32)
