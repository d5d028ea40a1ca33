import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typing_extensions import override

from segkit.backbones.base import Backbone
from segkit.data.preprocess import InputSpec
from segkit.errors import InputError
from segkit.models import build
from segkit.models.segmenter import Segmenter
from segkit.predictors.agreement import (
    Agreement,
    Example,
    compare,
    file_examples,
    phantom_examples,
)
from segkit.predictors.watch import Watch
from segkit.typing import Features, Grid, MaskPrediction


class Noisy(torch.nn.Module):
    """Features of another backbone with noise, as an exported encoder may have them."""

    def __init__(self, backbone: Backbone, share: float) -> None:
        super().__init__()
        self.backbone, self.share = backbone, share

    @override
    def forward(self, image: torch.Tensor, grid: Grid) -> Features:
        (level,) = self.backbone(image, grid).levels
        noise = torch.randn(level.shape, generator=torch.Generator().manual_seed(0))
        return Features((level + self.share * level.std() * noise,), grid)


def iou(segmenter: Segmenter, share: float, examples: list[Example] | None = None) -> Agreement:
    other = Noisy(segmenter.backbone, share)
    examples = phantom_examples(64, 3) if examples is None else examples
    return compare(segmenter, other, examples, data="phantoms")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def nano_like() -> Segmenter:
    return build.sam_tiny().eval()


@pytest.fixture(scope="module")
def automatic() -> Segmenter:
    torch.manual_seed(0)  # of the class queries
    return build.sam_tiny(classes=2).eval()


@pytest.mark.parametrize("kind", ["nano_like", "automatic"])
def test_more_noise_means_less_agreement(kind: str, request: pytest.FixtureRequest) -> None:
    segmenter = request.getfixturevalue(kind)
    same, near, far = (iou(segmenter, share) for share in (0.0, 0.1, 30.0))
    assert same.mean_iou == same.least_iou == 1.0
    assert same.share_below_90 == 0.0
    assert 1 > near.mean_iou > far.mean_iou
    assert far.mean_iou < 0.9
    assert far.least_iou <= far.mean_iou
    assert same.pictures == 3
    assert same.masks > 0


def test_boxes_and_clicks_are_asked_of_every_object(nano_like: Segmenter) -> None:
    examples = phantom_examples(64, 3)
    objects = sum(0 if one.objects is None else len(one.objects) for one in examples)
    assert iou(nano_like, 0.0, examples).masks == 2 * objects > 0


def test_objects_that_nobody_named_are_what_the_float_model_finds() -> None:
    segmenter = build.nano().eval()
    image = torch.full((3, 256, 256), 0.2)
    image[:, 90:160, 100:150] = 0.8
    assert iou(segmenter, 0.0, [Example(image)]).masks > 0
    nothing = [Example(image, torch.zeros(0, 256, 256, dtype=torch.bool))]
    with pytest.raises(InputError, match=r"finds no object on 1 pictures \(phantoms\)"):
        iou(segmenter, 0.0, nothing)


def test_phantoms_are_the_same_on_every_run() -> None:
    one, other = phantom_examples(64, 2), phantom_examples(64, 2)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.image, b.image)
        assert a.objects is not None
        assert b.objects is not None
        assert torch.equal(a.objects, b.objects)
        share = a.objects.float().mean(dim=(1, 2))
        assert a.objects.shape[1:] == (64, 64)
        assert len(share) <= 4
        assert bool(((share >= 0.002) & (share <= 0.6)).all())
        assert 0 <= a.image.min() < a.image.max() <= 1


def test_files_are_chosen_evenly_and_read_as_the_model_reads_them(tmp_path: Path) -> None:
    paths = []
    for number in range(7):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((20, 40), 30 * number, np.uint8)).save(paths[-1])
    seen: list[int] = []

    def spec(source: object) -> InputSpec:
        seen.append(int(source.array.max()))  # type: ignore[attr-defined]
        return InputSpec(2, 64, "repeat")

    found = file_examples(paths, spec, 3)
    assert seen == [0, 90, 180]
    assert [tuple(one.image.shape) for one in found] == [(3, 64, 64)] * 3
    assert all(one.objects is None for one in found)
    assert len(file_examples(paths, spec, 99)) == 7


def test_background_that_agrees_says_nothing(automatic: Segmenter) -> None:
    class Shy(Segmenter):
        @override
        def decode(self, *args: object, **options: object) -> MaskPrediction:
            found = super().decode(*args, **options)  # type: ignore[arg-type]
            return replace(found, logits=-torch.ones_like(found.logits))

    shy = copy.copy(automatic)
    shy.__class__ = Shy
    with pytest.raises(InputError, match="finds no object on 3 pictures"):
        iou(shy, 0.0)


def test_progress_is_told(nano_like: Segmenter) -> None:
    told: list[tuple[int, int]] = []
    compare(
        nano_like,
        nano_like.backbone,
        phantom_examples(64, 2),
        data="",
        watch=Watch(lambda *at: told.append(at)),
    )
    assert told == [(0, 2), (1, 2), (2, 2)]
