"""SAM's prompt encoder against the official one."""

import pytest
import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor

from segkit.errors import InputError
from segkit.prompts.drawing import draw_marks, first_logits
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import Prompts

SIZE = (64, 64)


@pytest.fixture
def upstream() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(32, (8, 8), SIZE, 16).eval()


def kji(xy: Tensor) -> Tensor:
    """Official (x, y) to segkit's (k, j, i)."""
    return torch.cat([torch.zeros_like(xy[..., :1]), xy.flip(-1)], dim=-1)


def marks(
    points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None = None
) -> Prompts:
    """Official arguments as segkit's."""
    count = next(len(value) for value in (points, boxes, masks) if value is not None)
    xy = [torch.zeros(count, 0, 2)] if points is None else [points]
    kinds = [torch.zeros(count, 0, dtype=torch.long)] if labels is None else [labels]
    if boxes is not None:
        xy.append(boxes.reshape(-1, 2, 2))
        kinds.append(torch.tensor([[2, 3]]).expand(count, -1))
    return Prompts(kji(torch.cat(xy, 1)), torch.cat(kinds, 1), masks)


POINTS = torch.tensor([[[3.0, 40.0], [20.5, 7.25]], [[63.0, 0.0], [0.0, 63.0]]])
LABELS = torch.tensor([[1, 0], [0, 1]])
BOXES = torch.tensor([[2.0, 5.0, 40.0, 60.0], [0.0, 0.0, 63.0, 63.0]])
MASKS = torch.sin(torch.arange(2 * 32 * 32.0)).reshape(2, 1, 32, 32)


@pytest.mark.parametrize("points", [None, POINTS])
@pytest.mark.parametrize("boxes", [None, BOXES])
@pytest.mark.parametrize("masks", [None, MASKS])
def test_equals_official(
    upstream: PromptEncoder, points: Tensor | None, boxes: Tensor | None, masks: Tensor | None
) -> None:
    if points is None and boxes is None and masks is None:
        return
    labels = None if points is None else LABELS
    with torch.no_grad():
        official = None if points is None else (points, labels)
        sparse, dense = upstream(official, boxes, masks)
        positions = upstream.get_dense_pe()
        ours = SamPromptEncoder(upstream)(marks(points, labels, boxes, masks), SIZE)
    torch.testing.assert_close(ours.sparse, sparse, rtol=0, atol=0)
    torch.testing.assert_close(ours.dense, dense, rtol=0, atol=0)
    torch.testing.assert_close(ours.positions, positions, rtol=0, atol=0)


def test_ragged_points_equal_official_padding(upstream: PromptEncoder) -> None:
    labels = torch.tensor([[1, 0], [1, -1]])
    with torch.no_grad():
        sparse, _ = upstream((POINTS, labels), None, None)
        ours = SamPromptEncoder(upstream)(marks(POINTS, labels, None), SIZE)
    torch.testing.assert_close(ours.sparse, sparse, rtol=0, atol=0)


def test_other_sizes_equal_an_official_encoder_of_that_size(upstream: PromptEncoder) -> None:
    other = PromptEncoder(32, (4, 12), (32, 96), 16).eval()
    other.load_state_dict(upstream.state_dict())
    masks = MASKS.reshape(2, 1, -1)[..., :768].reshape(2, 1, 16, 48)
    with torch.no_grad():
        sparse, dense = other((POINTS, LABELS), BOXES, masks)
        ours = SamPromptEncoder(upstream)(marks(POINTS, LABELS, BOXES, masks), (32, 96))
    torch.testing.assert_close(ours.sparse, sparse, rtol=0, atol=0)
    torch.testing.assert_close(ours.dense, dense, rtol=0, atol=0)
    torch.testing.assert_close(ours.positions, other.get_dense_pe(), rtol=0, atol=0)


def test_mixed_batch_pads_objects_without_a_box(upstream: PromptEncoder) -> None:
    encoder = SamPromptEncoder(upstream)
    prompts = Prompts(torch.rand(2, 2, 3) * 60, torch.tensor([[2, 3], [1, -1]]))
    sparse = encoder(prompts, SIZE).sparse
    padding = upstream.not_a_point_embed.weight.expand(3, -1)
    assert sparse.shape[1] == 3
    torch.testing.assert_close(torch.stack([sparse[0, 2], *sparse[1, 1:]]), padding)


def test_k_is_ignored_and_whole_numbers_equal_floats(upstream: PromptEncoder) -> None:
    encoder, labels = SamPromptEncoder(upstream), torch.tensor([[1]])
    floats = encoder(Prompts(torch.tensor([[[0.0, 12.0, 5.0]]]), labels), SIZE).sparse
    other_slice = encoder(Prompts(torch.tensor([[[9.0, 12.0, 5.0]]]), labels), SIZE).sparse
    whole = encoder(Prompts(torch.tensor([[[0, 12, 5]]]), labels), SIZE).sparse
    torch.testing.assert_close(floats, other_slice, rtol=0, atol=0)
    torch.testing.assert_close(floats, whole, rtol=0, atol=0)


def test_empty_is_the_official_answer_to_no_prompt(upstream: PromptEncoder) -> None:
    sparse, dense = upstream(None, None, None)
    tokens = SamPromptEncoder(upstream).empty(3, SIZE)
    assert tokens.sparse.shape == (3, 0, sparse.shape[-1])
    torch.testing.assert_close(tokens.dense[1:2], dense, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("trained", "expected"), [("none", set()), ("no_mask", {"module.no_mask_embed.weight"})]
)
def test_what_is_trained(upstream: PromptEncoder, trained: str, expected: set[str]) -> None:
    encoder = SamPromptEncoder(upstream, trained=trained)
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == expected


def test_all_can_be_trained(upstream: PromptEncoder) -> None:
    assert all(p.requires_grad for p in SamPromptEncoder(upstream, trained="all").parameters())


def test_unknown_choice_of_training_is_refused(upstream: PromptEncoder) -> None:
    with pytest.raises(ValueError, match=r"trained must be one of .*got 'mask'"):
        SamPromptEncoder(upstream, trained="mask")


def test_no_prompt_is_refused(upstream: PromptEncoder) -> None:
    nothing = Prompts(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long))
    with pytest.raises(InputError, match="no prompt: neither a point, a box nor a mask"):
        SamPromptEncoder(upstream)(nothing, SIZE)


@pytest.mark.parametrize(
    "masks",
    [torch.zeros(2, 1, 64, 64), torch.zeros(1, 1, 32, 32), torch.zeros(2, 1, 32, 32).bool()],
)
def test_wrong_masks_are_refused(upstream: PromptEncoder, masks: Tensor) -> None:
    with pytest.raises(InputError, match=r"floating-point logits of shape \(2, 1, 32, 32\), got"):
        SamPromptEncoder(upstream)(marks(POINTS, LABELS, None, masks), SIZE)


@pytest.fixture
def drawing(upstream: PromptEncoder) -> PromptEncoder:
    """The module of a model that draws its prompts."""
    upstream.draws_prompts = True
    return upstream


@pytest.mark.parametrize("masks", [None, MASKS])
@pytest.mark.parametrize("boxes", [None, BOXES])
@torch.no_grad()
def test_a_drawing_takes_the_place_of_the_mask(
    drawing: PromptEncoder, boxes: Tensor | None, masks: Tensor | None
) -> None:
    prompts = marks(POINTS, LABELS, boxes, masks)
    tokens = SamPromptEncoder(drawing)(prompts, SIZE)
    drawn = draw_marks(prompts.points, prompts.labels, (32, 32), 2.0, masks)
    assert torch.equal(tokens.drawn, first_logits(drawn, masks is not None))
    assert torch.equal(tokens.dense, drawing.mask_downscaling(drawn))
    sparse, _ = drawing((POINTS, LABELS), boxes, None)
    assert torch.equal(tokens.sparse, sparse)


@torch.no_grad()
def test_objects_without_a_mark_keep_the_no_mask_token(drawing: PromptEncoder) -> None:
    encoder = SamPromptEncoder(drawing)
    prompts = Prompts(torch.rand(2, 1, 3) * 60, torch.tensor([[1], [-1]]))
    tokens = encoder(prompts, SIZE)
    no_mask = drawing.no_mask_embed.weight.view(1, -1, 1, 1).expand(1, -1, 8, 8)
    assert torch.equal(tokens.dense[1:], no_mask)
    assert not tokens.drawn[1].any()
    assert not torch.equal(tokens.dense[:1], no_mask)
    assert encoder.empty(2, SIZE).drawn is None


def test_other_models_draw_nothing(upstream: PromptEncoder) -> None:
    assert SamPromptEncoder(upstream)(marks(POINTS, LABELS, BOXES), SIZE).drawn is None


@torch.no_grad()
def test_drawings_have_the_size_of_the_input(drawing: PromptEncoder) -> None:
    tokens = SamPromptEncoder(drawing)(marks(POINTS, LABELS, None), (32, 96))
    assert tokens.drawn.shape == (2, 1, 16, 48)
