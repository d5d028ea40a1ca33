"""The full model on a full block: minutes and gigabytes, so only on request."""

import resource
from functools import partial

import pytest
import torch

from segkit.adapters import Spatial
from segkit.models import build
from segkit.typing import Grid, Prompts


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_vit_b_trains_on_a_block_of_128_within_24_gib() -> None:
    segmenter = build.sam3d_vit_b(
        checkpoint="random", adapter=partial(Spatial), checkpointing=True
    ).train()
    features = segmenter.encode(torch.rand(128, 3, 128, 128), Grid((128, 128, 128)))
    click = Prompts(torch.full((1, 1, 3), 64.0), torch.tensor([[1]]))
    logits = segmenter.decode(features, click).logits
    assert logits.shape == (1, 1, 128, 128, 128)
    logits.square().mean().backward()
    trained = {n: p for n, p in segmenter.named_parameters() if p.requires_grad}
    assert not [name for name, p in trained.items() if p.grad is None]
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert peak_gib < 24
