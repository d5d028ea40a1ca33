"""The class of the highest mean probability, on slices and on blocks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segkit.data.preprocess import InputSpec
from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.models import build
from segkit.models.info import ModelInfo
from segkit.predictors.base import Predictor
from segkit.predictors.ensemble import Ensemble

LABELS = {1: "organ", 2: "lesion"}
AFFINE = np.array([[0, 0, 2.0, 5], [-1.0, 0, 0, 7], [0, 1.5, 0, -3], [0, 0, 0, 1]])


def volume() -> Volume:
    array = np.random.default_rng(0).integers(0, 255, (6, 20, 24)).astype(np.uint8)
    return Volume(array, Geometry((6, 20, 24), AFFINE))


def model(seed: int, **options: Any) -> Predictor:
    torch.manual_seed(seed)
    options = {"classes": 2, "image_size": 64} | options
    segmenter = build.sam_tiny(**options)
    labels = {value: LABELS[value] for value in range(1, options["classes"] + 1)}
    info = ModelInfo.of(segmenter, labels=labels, input=InputSpec(size=64))
    return Predictor(segmenter, info, device="cpu")


def test_probabilities_of_slices_are_averaged() -> None:
    models = [model(seed) for seed in (0, 1, 2)]
    total: dict[int, np.ndarray] = {}

    def add(view: Any, index: int, shares: np.ndarray) -> None:
        every = np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares])
        total[index] = total.get(index, 0) + every

    source = volume()
    alone = [one.segment(source, look=add) for one in models]
    view = models[0].slices(source).view
    expected = view.restore(np.stack([total[i].argmax(axis=0) for i in range(len(total))]))
    found = Ensemble(models).segment(source)
    assert found.dtype == np.uint8
    assert (found == expected).mean() > 0.999  # equal but for ties of rounding
    assert not any((found == one).all() for one in alone)


def test_blocks_of_one_network_agree_with_themselves(bright: Callable[..., Any]) -> None:
    shape = (9, 20, 24)
    array = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    source = Volume(array, Geometry(shape, AFFINE))
    one = bright(patch=(4, 8, 8), spacing_mm=(1.0, 1.0, 1.0), classes=2)
    two = bright(patch=(4, 8, 8), spacing_mm=(1.0, 1.0, 1.0), classes=2)
    np.testing.assert_array_equal(Ensemble([one, two]).segment(source), one.segment(source))


def test_refusals() -> None:
    first = model(0)
    with pytest.raises(InputError, match="at least two models, got 1"):
        Ensemble([first])
    with pytest.raises(InputError, match="model 2 needs prompts"):
        Ensemble([first, Predictor(build.sam_tiny(image_size=64), device="cpu")])
    with pytest.raises(InputError, match=r"model 2 segments \{1: 'organ'\}, the first one"):
        Ensemble([first, model(0, classes=1)])
    other = model(1)
    assert other.info is not None
    other.info = replace(other.info, input=InputSpec(size=64, channels="repeat"))
    with pytest.raises(InputError, match="model 2 reads images otherwise"):
        Ensemble([first, other])
