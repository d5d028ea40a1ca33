"""What every decoder of `segkit.decoders` must do; new ones are found by themselves."""

import inspect
from copy import deepcopy

import pytest
import torch
from torch import Tensor

import segkit.decoders
from segkit.decoders.base import Decoder
from segkit.models import build
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Grid, MaskPrediction, Prompts

DECODERS = [
    value
    for _, value in inspect.getmembers(segkit.decoders, inspect.isclass)
    if issubclass(value, Decoder) and value is not Decoder
]
OTHER_BUILDERS = {
    "Sam2MaskDecoder": build.sam2_test,
    "MultilevelDecoder": build.sam3d_tiny,
    "MultilevelClasses": build.sam3d_tiny,
}
"""Builders of the decoders that do not stand on SAM."""


def built(decoder: type[Decoder], **options: object) -> Segmenter:
    return OTHER_BUILDERS.get(decoder.__name__, build.sam_tiny)(decoder=decoder, **options).eval()


@pytest.fixture(params=DECODERS, ids=lambda kind: kind.__name__)
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    torch.manual_seed(0)
    return built(request.param)


def images(count: int, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def prompts_for(segmenter: Segmenter, count: int) -> Prompts | None:
    if segmenter.is_automatic:
        return None
    points = torch.rand(count, 2, 3, generator=torch.Generator().manual_seed(2)) * 64
    return Prompts(points, torch.tensor([[1, 0]]).expand(count, -1))


def decode(segmenter: Segmenter, features: Features) -> MaskPrediction:
    count = len(features.levels[-1])
    return segmenter.decode(features, prompts_for(segmenter, count))


def test_decoders_were_found() -> None:
    assert {kind.__name__ for kind in DECODERS} >= {"MaskDecoder", "QueryDecoder"}


def test_every_option_has_a_default(segmenter: Segmenter) -> None:
    _, *others = inspect.signature(type(segmenter.decoder)).parameters.values()
    assert [p.name for p in others if p.default is p.empty] == []
    assert [p.name for p in others if p.kind is not p.KEYWORD_ONLY] == []


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_logits_cover_the_input_and_iou_belongs_to_each_mask(
    segmenter: Segmenter, size: tuple[int, int]
) -> None:
    prediction = decode(segmenter, segmenter.encode(images(2, size)))
    count, masks, *_, rows, cols = prediction.logits.shape
    assert (count, rows / cols) == (2, size[0] / size[1])
    assert prediction.iou.shape == (2, masks)
    assert torch.isfinite(prediction.logits).all()


@torch.no_grad()
def test_a_batch_equals_each_image_alone(segmenter: Segmenter) -> None:
    features, prompts = segmenter.encode(images(3)), prompts_for(segmenter, 3)
    together = segmenter.decode(features, prompts).logits
    for row in range(3):
        mine = None if prompts is None else Prompts(prompts.points[[row]], prompts.labels[[row]])
        alone = segmenter.decode(features[[row]], mine).logits
        torch.testing.assert_close(together[[row]], alone, rtol=1e-4, atol=1e-4)


def test_deep_copies_are_independent(segmenter: Segmenter) -> None:
    features = segmenter.encode(images(1))
    before = decode(segmenter, features).logits
    twin = deepcopy(segmenter)
    with torch.no_grad():
        for parameter in segmenter.decoder.parameters():
            parameter.add_(1)
    assert decode(twin, features).logits.equal(before)
    assert not decode(segmenter, features).logits.equal(before)


def test_state_dict_round_trip(segmenter: Segmenter) -> None:
    torch.manual_seed(1)
    other = built(type(segmenter.decoder), checkpoint="random:5")
    other.decoder.load_state_dict(segmenter.decoder.state_dict())
    features = segmenter.encode(images(1))
    other.prompt_encoder.load_state_dict(segmenter.prompt_encoder.state_dict())
    assert decode(other, features).logits.equal(decode(segmenter, features).logits)


def test_bf16_follows_fp32(segmenter: Segmenter) -> None:
    features = segmenter.encode(images(1))
    exact = decode(segmenter, features).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = decode(segmenter, features).logits.float()
    is_off = (rough - exact).abs() >= 0.1 * exact.abs().max()
    # where a rank decides what is refined, rounding may swap a few points
    assert is_off.float().mean() <= (0.01 if segmenter.decoder.resolution_free else 0)


def test_trained_parameters_have_gradients_after_one_step(segmenter: Segmenter) -> None:
    prediction = decode(segmenter.train(), segmenter.encode(images(2)))
    (prediction.logits.square().mean() + prediction.iou.square().mean()).backward()
    trained = [p for p in segmenter.decoder.parameters() if p.requires_grad]
    assert trained
    assert any(p.grad is not None and p.grad.any() for p in trained)
    assert not [
        name for name, p in segmenter.backbone.encoder.named_parameters() if p.grad is not None
    ]


def test_grid_of_a_volume_is_accepted(segmenter: Segmenter) -> None:
    features = segmenter.encode(images(4), Grid((2, 64, 64), spacing_mm=(3.0, 1.0, 1.0)))
    images_of_volume = 2 if segmenter.spec.dimensions == 3 else 4
    assert len(decode(segmenter, features).logits) == images_of_volume


@torch.no_grad()
def test_traces_as_one_graph(segmenter: Segmenter) -> None:
    features, prompts = segmenter.encode(images(1)), prompts_for(segmenter, 1)
    tokens = segmenter.prompt_encoder.tokens(features, prompts)
    compiled = torch.compile(segmenter.decoder, fullgraph=True, backend="aot_eager")
    expected = segmenter.decoder(features, tokens).logits
    torch.testing.assert_close(compiled(features, tokens).logits, expected, rtol=1e-4, atol=1e-4)
