"""Position codes are kept only as long as they hold."""

import torch
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom

from segkit.prompts.positions import PositionCodes


def test_codes_equal_those_of_the_layer_and_are_kept() -> None:
    layer = PositionEmbeddingRandom(16)
    codes = PositionCodes(layer)
    assert codes((4, 6)).equal(layer((4, 6))[None])
    assert codes((4, 6)) is codes((4, 6))


def test_another_matrix_gives_other_codes() -> None:
    layer = PositionEmbeddingRandom(16)
    codes = PositionCodes(layer)
    before = codes((4, 6))
    layer.load_state_dict(PositionEmbeddingRandom(16).state_dict())
    assert codes((4, 6)).equal(layer((4, 6))[None])
    assert not codes((4, 6)).equal(before)


def test_codes_made_while_predicting_can_be_trained_with() -> None:
    codes = PositionCodes(PositionEmbeddingRandom(16))
    with torch.inference_mode():
        codes((4, 6))
    scale = torch.ones(1, requires_grad=True)
    (codes((4, 6)) * scale).sum().backward()
    assert scale.grad is not None


def test_few_sizes_are_kept() -> None:
    codes = PositionCodes(PositionEmbeddingRandom(4))
    for side in range(2, 20):
        codes((side, side))
    assert len(codes._kept) <= codes.most
