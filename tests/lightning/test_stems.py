"""Frozen parts that are kept: the same losses, each image encoded once, never a stale value."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Squares, tiny_fit, tiny_module, tiny_segmenter

from segkit.adapters import DepthwiseDilated, Spatial, Stack
from segkit.errors import InputError
from segkit.lightning import StemCacheSpec
from segkit.lightning.stems import StemCache
from segkit.models import Segmenter, build

LATE = partial(DepthwiseDilated, start=1, blocks=1)


def opened(segmenter: Segmenter, **options: Any) -> StemCache:
    options = {"mode": "ram"} | options
    cache = StemCacheSpec(**options).open(segmenter, images_recur=True)
    assert cache is not None
    return cache


def images(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backbone", ["sam_tiny", "sam2_test"])
def test_features_equal_those_encoded_anew(backbone: str) -> None:
    segmenter = getattr(build, backbone)(trainable="decoder").train()
    cache, batch = opened(segmenter), torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        expected = segmenter.encode(batch)
        cache.encode(segmenter, batch[:2])
        found = cache.encode(segmenter, batch)
    assert (cache.found, cache.computed) == (2, 3)
    for level, want in zip(found.levels, expected.levels, strict=True):
        torch.testing.assert_close(level, want, rtol=1e-5, atol=1e-5)


def test_only_the_blocks_after_the_kept_ones_run(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = tiny_segmenter(adapter=LATE)
    runs: list[int] = []
    backbone = segmenter.backbone
    plain = backbone.block
    monkeypatch.setattr(
        backbone, "block", lambda block, x: (runs.append(len(x)), plain(block, x))[1]
    )
    cache = opened(segmenter)
    for _ in range(2):
        expected = segmenter.encode(images())
        runs.clear()
        found = cache.encode(segmenter, images())
        torch.testing.assert_close(found.levels[0], expected.levels[0], rtol=1e-5, atol=1e-5)
    assert runs == [3]  # of three blocks the last one, on three images


def test_gradients_reach_the_adapter() -> None:
    segmenter = tiny_segmenter(adapter=LATE)
    cache = opened(segmenter)
    gradients = []
    for encode in (segmenter.encode, partial(cache.encode, segmenter)):
        segmenter.zero_grad()
        segmenter.decode(encode(images())).logits.square().sum().backward()
        gradients.append([p.grad.clone() for p in segmenter.backbone.adapter.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_a_changed_image_is_encoded_anew() -> None:
    segmenter = tiny_segmenter(trainable="decoder")
    cache, batch = opened(segmenter), images()
    cache.encode(segmenter, batch)
    batch[1, 0, 0, 0] += 1e-6
    cache.encode(segmenter, batch)
    assert (cache.found, cache.computed) == (2, 4)


def test_what_is_unfrozen_later_goes_past_the_cache() -> None:
    segmenter = tiny_segmenter(trainable="decoder")
    cache = opened(segmenter)
    cache.encode(segmenter, images())
    for parameter in segmenter.backbone.adapter.parameters():
        parameter.requires_grad_(True)
    expected = segmenter.encode(images())
    found = cache.encode(segmenter, images())
    assert cache.found == 0
    assert found.levels[0].equal(expected.levels[0])


def test_another_run_finds_what_is_on_disk_for_the_same_weights_only(tmp_path: Path) -> None:
    options: dict[str, Any] = {"mode": "disk", "folder": str(tmp_path)}
    first = opened(tiny_segmenter(trainable="decoder"), **options)
    expected = first.encode(tiny_segmenter(trainable="decoder"), images())
    again = tiny_segmenter(trainable="decoder")
    second = opened(again, **options)
    assert second.encode(again, images()).levels[0].equal(expected.levels[0])
    assert (second.found, second.computed) == (3, 0)
    with torch.no_grad():
        again.backbone.encoder.blocks[2].mlp.lin1.bias.add_(0.1)
    third = opened(again, **options)
    third.encode(again, images())
    assert (third.found, third.computed) == (0, 3)


def test_memory_is_bounded() -> None:
    segmenter = tiny_segmenter(trainable="decoder")
    cache = opened(segmenter, ram_gb=2 * 32 * 4 * 4 * 4 / 2**30)  # two maps of 32 x 4 x 4
    for _ in range(2):
        cache.encode(segmenter, images())
    assert (cache.found, cache.computed) == (2, 4)


@pytest.mark.parametrize(
    "options",
    [{"trainable": "decoder"}, {"adapter": LATE}],
    ids=["decoder alone", "late adapter"],
)
def test_training_gives_the_same_losses(tmp_path: Path, options: dict[str, Any]) -> None:
    losses = []
    for name in ("plain", "kept"):

        def module(name: str = name) -> Any:
            made = tiny_module(tiny_segmenter(**options))
            if name == "kept":
                made.stems = opened(made.segmenter)
            return made

        tiny_fit(tmp_path / name, module=module, trainer_max_epochs=3)
        with (tmp_path / name / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        losses.append([float(r["train/loss"]) for r in rows if r.get("train/loss")])
    assert len(losses[0]) >= 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-5, abs=1e-6)


def test_auto_keeps_where_it_pays() -> None:
    spec = StemCacheSpec()
    decoder = tiny_segmenter(trainable="decoder")
    assert spec.open(decoder, images_recur=True).in_training
    assert not spec.open(decoder, images_recur=False).in_training
    assert spec.open(decoder, images_recur=True, is_supported=False) is None
    assert spec.open(tiny_segmenter(adapter=Spatial), images_recur=True) is None
    assert spec.open(tiny_segmenter(trainable="all"), images_recur=True) is None
    assert StemCacheSpec(mode="off").open(decoder, images_recur=True) is None
    assert StemCacheSpec(mode=False).mode == "off"  # YAML


def test_insisting_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"nothing to keep.*adapter\.start=K"):
        opened(tiny_segmenter(adapter=Spatial))
    with pytest.raises(InputError, match=r"at random.*data\.augment\.variants=4"):
        StemCacheSpec(mode="disk").open(tiny_segmenter(trainable="decoder"), images_recur=False)
    with pytest.raises(InputError, match=r"one of .*got 'always'"):
        StemCacheSpec(mode="always")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"must be >= 0: -1"):
        StemCacheSpec(ram_gb=-1)


def test_validation_alone_is_kept_when_training_images_change() -> None:
    segmenter = tiny_segmenter(trainable="decoder")
    module = tiny_module(segmenter)
    module.stems = StemCacheSpec().open(segmenter, images_recur=False)
    batch = next(iter(Squares().val_loader()))
    for _ in range(2):
        module.train()
        module.encode(batch)
        module.eval()
        module.encode(batch)
    assert module.stems.found == module.stems.computed == len(batch)


def test_adapters_say_which_blocks_they_leave_alone() -> None:
    assert tiny_segmenter(adapter=LATE).backbone.frozen_blocks == 2
    stack = partial(Stack, adapters=[LATE, Spatial])
    assert tiny_segmenter(adapter=stack).backbone.frozen_blocks == 0
    with pytest.raises(ValueError, match="start must be 0 to 2, got 3"):
        tiny_segmenter(adapter=partial(DepthwiseDilated, start=3))
