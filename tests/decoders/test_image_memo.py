"""What clicks on one image share: kept when it helps, made anew when it no longer holds."""

import copy
import gc
import pickle
from dataclasses import replace

import pytest
import torch

from segkit.models import build
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Prompts


@pytest.fixture
def segmenter() -> Segmenter:
    return build.sam_tiny().eval()


def clicks(*rows: float) -> Prompts:
    points = torch.tensor([[[0.0, row, 30.0]] for row in rows])
    return Prompts(points, torch.ones(len(rows), 1, dtype=torch.long))


def encoded(segmenter: Segmenter, seed: int = 0) -> Features:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return segmenter.encode(image)


def decoded(segmenter: Segmenter, features: Features, *rows: float) -> torch.Tensor:
    with torch.no_grad():
        return segmenter.decode(features, clicks(*rows), multimask=True).logits


def side(segmenter: Segmenter) -> object:
    return segmenter.decoder._memo._side


@pytest.mark.parametrize("rows", [(20.0,), (20.0, 41.0, 5.0)])
def test_later_clicks_equal_the_first_one(segmenter: Segmenter, rows: tuple[float, ...]) -> None:
    features = encoded(segmenter)
    first = decoded(segmenter, features, *rows)
    assert side(segmenter) is None
    later = decoded(segmenter, features, *rows)
    assert side(segmenter) is not None
    torch.testing.assert_close(later, first, rtol=1e-5, atol=1e-5)
    # of these two only one reads what was kept
    decoded(segmenter, encoded(segmenter, 1), *rows)
    torch.testing.assert_close(decoded(segmenter, features, *rows), first, rtol=1e-5, atol=1e-5)


def test_a_changed_weight_is_noticed(segmenter: Segmenter) -> None:
    features = encoded(segmenter)
    for _ in range(2):
        before = decoded(segmenter, features, 20.0)
    layer = segmenter.decoder.module.transformer.layers[0]
    with torch.no_grad():
        layer.cross_attn_token_to_image.v_proj.weight.mul_(3)
    fresh = copy.deepcopy(segmenter)
    after = decoded(segmenter, features, 20.0)
    torch.testing.assert_close(after, decoded(fresh, features, 20.0))
    assert not torch.allclose(after, before)


def test_a_changed_map_is_noticed(segmenter: Segmenter) -> None:
    features = encoded(segmenter)
    for _ in range(2):
        decoded(segmenter, features, 20.0)
    features.levels[-1].mul_(2)
    expected = decoded(copy.deepcopy(segmenter), features, 20.0)
    torch.testing.assert_close(decoded(segmenter, features, 20.0), expected)


def test_gradients_go_past_it(segmenter: Segmenter) -> None:
    features, click = encoded(segmenter), clicks(20.0)
    for _ in range(3):
        segmenter.decode(features, click).logits.sum().backward()
    assert side(segmenter) is None


@pytest.mark.parametrize("rows", [(20.0,), (20.0, 41.0, 5.0)])
def test_mask_prompts_share_it_with_clicks(
    segmenter: Segmenter, rows: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, click = encoded(segmenter), clicks(*rows)
    shape = (len(rows), 1, 32, 32)
    masked = replace(
        click, masks=3 * torch.randn(shape, generator=torch.Generator().manual_seed(2))
    )
    fresh = copy.deepcopy(segmenter)
    monkeypatch.setattr(type(fresh.decoder._memo), "__call__", lambda *_: None)
    with torch.no_grad():
        expected = [fresh.decode(features, one).logits for one in (click, masked)]
    monkeypatch.undo()
    decoded(segmenter, features, *rows)
    decoded(segmenter, features, *rows)
    kept = side(segmenter)
    assert kept is not None
    with torch.no_grad():
        found = [segmenter.decode(features, one).logits for one in (click, masked)]
    assert side(segmenter) is kept
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_dense_prompt_of_unknown_making_goes_past_it(segmenter: Segmenter) -> None:
    features = encoded(segmenter)
    for _ in range(2):
        decoded(segmenter, features, 20.0)
    with torch.no_grad():
        tokens = segmenter.prompt_encoder(clicks(20.0), (64, 64))
        dense = torch.randn(tokens.dense.shape, generator=torch.Generator().manual_seed(3))
        given = replace(tokens, dense=dense)
        found = segmenter.decoder(features, given).logits
        expected = copy.deepcopy(segmenter).decoder(features, given).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_it_goes_with_the_image(segmenter: Segmenter) -> None:
    features = encoded(segmenter)
    for _ in range(2):
        decoded(segmenter, features, 20.0)
    assert side(segmenter) is not None
    del features
    gc.collect()
    assert side(segmenter) is None


def test_it_is_neither_copied_nor_pickled(segmenter: Segmenter) -> None:
    features = encoded(segmenter)
    for _ in range(2):
        decoded(segmenter, features, 20.0)
    memo = segmenter.decoder._memo
    assert copy.deepcopy(memo)._side is None
    assert pickle.loads(pickle.dumps(memo))._side is None
