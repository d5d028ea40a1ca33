"""The table of what is trained: its rows, and that every method trains what it says."""

import numpy as np
import pytest
import torch

from benchmarks import trainable
from benchmarks.training import Pictures
from benchmarks.zero_shot_data import Item
from segkit.lightning.optimizer import part_of, trainable_parameters
from segkit.models.build import nano


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    items = []
    for index in range(4):
        mask = np.zeros((40, 60), bool)
        mask[8 : 20 + index, 10:40] = True
        noise = rng.integers(0, 60, (40, 60, 3), np.uint8)
        items.append(Item(str(index), noise + (120 * mask[..., None]).astype(np.uint8), mask))
    return trainable.pictures_of(items)


def test_pictures_keep_their_objects(pictures):
    assert pictures.images.shape == (4, 3, trainable.SIZE, trainable.SIZE)
    share = pictures.masks.mean((1, 2)) * trainable.SIZE**2
    expected = np.array([30 * (12 + index) for index in range(4)]) * (trainable.SIZE / 60) ** 2
    np.testing.assert_allclose(share, expected, rtol=0.1)


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("decoder only", {"decoder"}),
        ("adapter + decoder", {"adapter", "decoder"}),
        ("full fine-tuning", {"encoder", "decoder", "prompt_encoder"}),
        ("from scratch", {"encoder", "decoder", "prompt_encoder"}),
    ],
)
def test_every_method_trains_its_parts(method, parts):
    torch.manual_seed(0)
    segmenter = nano(image_size=trainable.SIZE, **trainable.METHODS[method].options)
    names = trainable_parameters(segmenter)
    assert {part_of(name, segmenter) for name in names} == parts
    random = segmenter.recipe.backbone.sha256 != nano().recipe.backbone.sha256
    assert random == (method == "from scratch")


def test_a_run_trains_until_its_time_is_used(pictures):
    few = Pictures(pictures.images[:2], pictures.masks[:2])
    run = trainable.measure(trainable.Run("made up", "decoder only", 0.1, "0"), few, few)
    assert run.steps >= 1
    assert run.parameters > 100_000
    assert len(run.click) == len(run.box) == 2
    assert all(0 <= value <= 1 for value in (*run.click, *run.box))


def test_rows_show_the_difference_to_the_decoder(pictures):
    subjects = ["a", "b", "c", "d"]
    base = trainable.Run("x", "decoder only", 9, "0", 10, 5, (0.5,) * 4, (0.6,) * 4)
    more = trainable.Run("x", "full fine-tuning", 9, "0", 99, 3, (0.7,) * 4, (0.6,) * 4)
    ellipse, first, second = trainable.rows_of([base, more], subjects, pictures)
    assert ellipse["method"] == "ellipse in the box"
    assert first["click"] == "0.500 [0.500, 0.500]"
    assert second["click minus decoder only"] == "+0.200 [+0.200, +0.200]"
    assert second["box minus decoder only"] == "+0.000 [+0.000, +0.000]"
