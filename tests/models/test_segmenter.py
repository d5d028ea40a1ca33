"""Encode, decode, freezing and the state that goes into files."""

from functools import partial

import pytest
import torch
from torch import nn
from typing_extensions import override

from segkit.adapters.base import Adapter
from segkit.decoders.mask import MaskDecoder
from segkit.errors import CheckpointError, InputError
from segkit.models import build, upsample
from segkit.models.segmenter import Segmenter
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import BackboneSpec, Grid, Prompts, Tokens


class Shift(Adapter):
    """A parameter per block, used twice, a buffer and a frozen parameter."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__(spec)
        self.shifts = nn.ParameterList(torch.zeros(block.dim_out) for block in spec.blocks)
        self.alias = self.shifts[0]
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("cache", torch.zeros(1), persistent=False)

    @override
    def after(self, index: int, tokens: Tokens, state: object) -> Tokens:
        return tokens + self.shifts[index]


def click(count: int = 1, image_index: torch.Tensor | None = None) -> Prompts:
    points = torch.tensor([[[0.0, 20.0, 30.0]]]).expand(count, -1, -1)
    return Prompts(points, torch.ones(count, 1, dtype=torch.long), image_index=image_index)


def trained(segmenter: Segmenter) -> set[str]:
    """Parts with a parameter to train."""
    names = [name for name, p in segmenter.named_parameters() if p.requires_grad]
    parts = ("backbone.encoder", "backbone.adapter", "prompt_encoder", "decoder")
    return {part for part in parts if any(name.startswith(part) for name in names)}


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("adapter", {"backbone.adapter", "decoder"}),
        ("decoder", {"decoder"}),
        ("all", {"backbone.encoder", "backbone.adapter", "decoder"}),
    ],
)
def test_what_is_trained(trainable: str, expected: set[str]) -> None:
    segmenter = build.sam_tiny(adapter=Shift, trainable=trainable)
    assert trained(segmenter) == expected
    assert not segmenter.backbone.adapter.frozen.requires_grad


def test_frozen_encoder_stays_in_evaluation_mode() -> None:
    assert not build.sam_tiny().train().backbone.encoder.training
    assert build.sam_tiny(trainable="all").train().backbone.encoder.training


def test_trainable_state_holds_what_differs_from_the_weight_file() -> None:
    segmenter = build.sam_tiny(adapter=Shift)
    state = segmenter.trainable_state()
    adapter = {name for name in state if name.startswith("backbone.")}
    # the shared parameter is stored once
    names = ("alias", "shifts.1", "shifts.2", "seen")
    assert adapter == {f"backbone.adapter.{name}" for name in names}
    assert not [name for name in state if name.startswith("prompt_encoder")]
    decoder = {f"decoder.{name}" for name in segmenter.decoder.state_dict()}
    assert state.keys() == adapter | decoder
    assert not any(tensor.requires_grad for tensor in state.values())
    assert state.keys() <= segmenter.state_dict().keys()


def test_trainable_state_keeps_an_adapter_trained_before() -> None:
    assert build.sam_tiny(adapter=Shift, trainable="decoder").trainable_state().keys() == (
        build.sam_tiny(adapter=Shift).trainable_state().keys()
    )


def test_trainable_state_holds_the_encoder_if_it_is_trained() -> None:
    segmenter = build.sam_tiny(trainable="all")
    encoder = {f"backbone.encoder.{name}" for name in segmenter.backbone.encoder.state_dict()}
    assert encoder <= segmenter.trainable_state().keys()


def test_trainable_state_holds_the_no_mask_token_if_it_is_trained() -> None:
    segmenter = build.sam_tiny(prompt_encoder=partial(SamPromptEncoder, trained="no_mask"))
    names = [name for name in segmenter.trainable_state() if name.startswith("prompt_encoder")]
    assert names == ["prompt_encoder.module.no_mask_embed.weight"]


def test_trainable_state_round_trip_changes_nothing_else() -> None:
    segmenter, other = (build.sam_tiny(adapter=Shift) for _ in range(2))
    with torch.no_grad():
        for tensor in segmenter.trainable_state().values():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)))
    other.load_trainable_state(segmenter.trainable_state())
    for name, tensor in segmenter.state_dict().items():
        assert other.state_dict()[name].equal(tensor), name


def test_loading_refuses_before_anything_changes() -> None:
    segmenter = build.sam_tiny(adapter=Shift)
    name = "backbone.adapter.shifts.1"
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    good = {key: value + 1 for key, value in segmenter.trainable_state().items()}
    for wrong, message in [
        ({key: value for key, value in good.items() if key != name}, "1 missing: .*shifts.1"),
        (good | {"other": torch.ones(1)}, "1 unexpected: other"),
        (good | {name: torch.ones(5)}, r"shifts.1 expected \(32,\), found \(5,\)"),
        *(
            (
                good | {name: torch.tensor([0.0] * 31 + [value])},
                "1 trained tensors hold NaN.*shifts.1",
            )
            for value in (torch.nan, torch.inf, -torch.inf)
        ),
    ]:
        with pytest.raises(CheckpointError, match=message):
            segmenter.load_trainable_state(wrong)
    assert all(segmenter.state_dict()[key].equal(value) for key, value in before.items())


@torch.no_grad()
def test_objects_find_their_image() -> None:
    segmenter = build.sam_tiny().eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = segmenter.encode(images)
    both = segmenter.decode(features, click(3, torch.tensor([1, 0, 1]))).logits
    second = segmenter.decode(segmenter.encode(images[1:]), click(2)).logits
    torch.testing.assert_close(both[[0, 2]], second, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both[1], both[0], atol=1e-2)


@torch.no_grad()
def test_alternatives_are_offered_in_interactive_mode() -> None:
    segmenter = build.sam_tiny().eval()
    features = segmenter.encode(torch.rand(1, 3, 64, 64))
    prediction = segmenter.decode(features, click(2), multimask=True)
    assert prediction.logits.shape == (2, 3, 32, 32)
    assert prediction.best().iou.equal(prediction.iou.max(dim=1, keepdim=True).values)


@torch.no_grad()
def test_forward_is_decode_of_encode() -> None:
    segmenter, image = build.sam_tiny(classes=2).eval(), torch.rand(1, 3, 64, 64)
    assert segmenter(image).logits.equal(segmenter.decode(segmenter.encode(image)).logits)


def test_upsample_keeps_pixel_areas_aligned() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    wide = upsample(ramp, (8, 8))
    assert wide.shape == (1, 1, 8, 8)
    assert wide[0, 0, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


@pytest.mark.parametrize(
    ("shape", "grid", "message"),
    [
        ((1, 3, 60, 64), None, r"multiples of 8, got \(1, 3, 60, 64\)"),
        ((1, 1, 64, 64), None, r"shape \(n, 3, height, width\)"),
        ((3, 3, 64, 64), Grid((2, 64, 64)), r"shape \(2, 64, 64\) does not describe images"),
        ((2, 3, 64, 64), Grid((2, 64, 32)), r"shape \(2, 64, 32\) does not describe images"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    shape: tuple[int, ...], grid: Grid | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build.sam_tiny().encode(torch.rand(shape), grid)


def test_no_prompt_in_interactive_mode_is_refused() -> None:
    segmenter = build.sam_tiny()
    features = segmenter.encode(torch.rand(1, 3, 64, 64))
    with pytest.raises(InputError, match=r"needs prompts, got none.*automatic model"):
        segmenter.decode(features)
    nothing = Prompts(torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(InputError, match="no prompt: neither a point, a box nor a mask"):
        segmenter.decode(features, nothing)


def test_prompts_in_automatic_mode_are_refused() -> None:
    segmenter = build.sam_tiny(classes=1)
    features = segmenter.encode(torch.rand(1, 3, 64, 64))
    with pytest.raises(InputError, match="classes without prompts, got prompts"):
        segmenter.decode(features, click())


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (click(3), "3 objects lie on 2 images"),
        (click(3, torch.tensor([0, 1])), "image_index must name 3 images, got 2"),
    ],
)
def test_objects_without_a_known_image_are_refused(prompts: Prompts, message: str) -> None:
    segmenter = build.sam_tiny()
    with pytest.raises(InputError, match=message):
        segmenter.decode(segmenter.encode(torch.rand(2, 3, 64, 64)), prompts)


def test_a_mask_prompt_of_the_wrong_size_is_refused() -> None:
    segmenter = build.sam_tiny()
    features = segmenter.encode(torch.rand(1, 3, 64, 64))
    prompts = Prompts(torch.zeros(1, 0, 3), torch.zeros(1, 0).long(), torch.zeros(1, 1, 64, 64))
    with pytest.raises(InputError, match=r"shape \(1, 1, 32, 32\), got .*\(1, 1, 64, 64\)"):
        segmenter.decode(features, prompts)


def test_constructor_refuses_what_contradicts_itself() -> None:
    segmenter = build.sam_tiny()
    parts = (segmenter.backbone, segmenter.prompt_encoder, segmenter.decoder)
    with pytest.raises(ValueError, match=r"trainable must be one of .*got 'encoder'"):
        Segmenter(*parts, trainable="encoder")
    with pytest.raises(ValueError, match="'all' needs a backbone built with trainable=True"):
        Segmenter(*parts, trainable="all")


def test_a_hand_built_segmenter_works_like_a_built_one() -> None:
    built = build.sam_tiny().eval()
    module = built.decoder.module
    by_hand = Segmenter(built.backbone, built.prompt_encoder, MaskDecoder(module)).eval()
    image = torch.rand(1, 3, 64, 64)
    assert by_hand(image, click()).logits.equal(built(image, click()).logits)
