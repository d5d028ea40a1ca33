import pytest
import torch
from torch import nn

from segkit.decoders.linear import LinearDecoder
from segkit.models import build
from segkit.prompts.none import NoPrompts
from segkit.typing import Features, Grid


def features(*widths: int) -> Features:
    levels = [torch.rand(2, width, *(8 // 2**i,) * 3) for i, width in enumerate(widths)]
    return Features(tuple(levels), Grid((8, 8, 8)))


def test_a_softmax_over_the_logits_is_that_of_the_layer() -> None:
    layer = nn.Conv3d(4, 3, 1)
    decoder = LinearDecoder(nn.ModuleList([layer]), classes=2)
    found = features(4)
    logits = decoder(found, NoPrompts().empty(2, (8, 8))).logits
    padded = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
    torch.testing.assert_close(padded.softmax(1), layer(found.levels[0]).softmax(1))


def test_every_level_is_predicted_finest_first() -> None:
    heads = nn.ModuleList([nn.Conv3d(4, 9, 1), nn.Conv3d(8, 9, 1)])
    decoder = LinearDecoder(heads, classes=2)
    every = decoder.every_level(features(4, 8))
    assert [tuple(one.logits.shape) for one in every] == [(2, 2, 8, 8, 8), (2, 2, 4, 4, 4)]


def test_it_probes_a_frozen_sam() -> None:
    segmenter = build.sam_tiny(decoder=LinearDecoder, classes=3)
    trained = sum(tensor.numel() for tensor in segmenter.trainable_state().values())
    assert trained == (segmenter.spec.out_dim + 1) * 4


def test_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="classes must be >= 1 without the background, got 0"):
        LinearDecoder(nn.ModuleList([nn.Conv3d(4, 3, 1)]), classes=0)
