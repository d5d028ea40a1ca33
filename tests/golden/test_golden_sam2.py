"""Numbers of the official SAM 2 modules (package 1.1.0) at the sizes of the test model.

Official key names in alphabetical order; tensor j is filled as in `conftest`, scales of norms get 1
more. Rounded to float32, in which the official code computes; a box, a click
and a mask on an image of 64 x 96 pixels.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.adapters import Adapter
from segkit.backbones.sam2 import Sam2Backbone
from segkit.backbones.sam2_checkpoints import from_official, to_official
from segkit.backbones.sam2_modules import SAM2_TEST, Sam2Modules
from segkit.decoders import Sam2MaskDecoder
from segkit.models.segmenter import Segmenter
from segkit.prompts import Sam2PromptEncoder
from segkit.typing import Features, Prompts, PromptTokens

SIZE = (64, 96)
NORMS = ("norm", "output_upscaling.1", "mask_downscaling.1.", "mask_downscaling.4.")
BOX_AND_CLICK = Prompts(
    torch.tensor([[[0.0, 10, 20], [0, 50, 70], [0, 30, 40]]]),
    torch.tensor([[2, 3, 1]]),
)


def filled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Closed-form weights for official names."""
    found = {}
    for j, name in enumerate(sorted(state)):
        k = torch.arange(state[name].numel(), dtype=torch.float64)
        is_scale = name.endswith("weight") and any(norm in name for norm in NORMS)
        found[name] = (0.1 * torch.sin(0.37 * k + j) + is_scale).view(state[name].shape)
    return found


@pytest.fixture
def segmenter() -> Segmenter:
    modules = Sam2Modules(SAM2_TEST)
    modules.load_state_dict(from_official(filled(to_official(modules.state_dict()))))
    head = modules.sam_mask_decoder
    backbone = Sam2Backbone(modules.image_encoder, (head.conv_s0, head.conv_s1), SAM2_TEST, Adapter)
    prompts = Sam2PromptEncoder(modules.sam_prompt_encoder)
    return Segmenter(backbone, prompts, Sam2MaskDecoder(head)).eval()


@pytest.fixture
def features(segmenter: Segmenter, wave: Callable[..., Tensor]) -> Features:
    return segmenter.encode((0.5 + 0.5 * wave(1, 3, *SIZE)).float())


def close(found: list[float], expected: list[float]) -> None:
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-6)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, [-0.169799, 0.1090155, 0.03247219, -0.2682055, -0.3019084]),
        (1, [0.05717617, 0.1654932, -0.2007544, 0.2499051, -0.1279515]),
        (2, [0.2040253, 2.60566, 0.3553556, 0.6977023, 2.320062]),
    ],
)
def test_levels(
    level: int, expected: list[float], features: Features, summary: Callable[[Tensor], list[float]]
) -> None:
    close(summary(features.levels[level]), expected)


def test_prompt_tokens(
    segmenter: Segmenter, wave: Callable[..., Tensor], summary: Callable[[Tensor], list[float]]
) -> None:
    marks = Prompts(BOX_AND_CLICK.points, BOX_AND_CLICK.labels, (4 * wave(1, 1, 16, 24)).float())
    tokens: PromptTokens = segmenter.prompt_encoder(marks, SIZE)
    assert tokens.sparse.shape == (1, 4, 32)
    close(summary(tokens.sparse), [0.3497837, 0.5153845, -0.7598201, -0.1953232, -0.0007856285])
    close(summary(tokens.dense), [0.01173014, 0.4207855, -0.04247081, -0.3017375, 0.3566505])
    close(summary(tokens.positions), [0.4713519, 0.5270934, -0.7959681, 0.6053386, 0.6168888])


def test_masks(
    segmenter: Segmenter, features: Features, summary: Callable[[Tensor], list[float]]
) -> None:
    found = segmenter.decode(features, BOX_AND_CLICK, multimask=True)
    close(summary(found.logits), [-0.02973386, 0.004997583, -0.02913398, -0.02744481, -0.02853757])
    close(summary(found.iou), [0.4984423, 0.0102789, 0.4856068, 0.4989507, 0.5107694])


def test_tokens_and_score_without_memory_marker(
    segmenter: Segmenter, features: Features, summary: Callable[[Tensor], list[float]]
) -> None:
    tokens = segmenter.prompt_encoder(BOX_AND_CLICK, SIZE)
    every = segmenter.decoder.every_mask(features, tokens)
    close(summary(every.logits), [-0.02870593, 0.00475817, -0.02440386, -0.02709921, -0.02839707])
    close(summary(every.tokens), [-0.007141963, 0.9865406, -1.890971, -1.884881, 1.451932])
    close(every.score.flatten().tolist(), [-0.04679626])
