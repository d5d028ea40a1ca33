"""Oracle prompts reach the model in its own pixels, and masks come back on the source grid."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from typing_extensions import override

from segkit.data.preprocess import InputSpec, SliceView
from segkit.data.zoom import Zoom
from segkit.evaluation.oracle import OracleProtocol
from segkit.evaluation.prompted import OraclePredictor
from segkit.evaluation.samples import Sample
from segkit.models import build
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.predictors.base import Predictor
from segkit.typing import Features, MaskPrediction, Prompts

LABELS = {1: "front", 2: "back"}


class BoxFiller(Segmenter):
    """Answers a box with exactly its pixels, a click with a square of six pixels around it."""

    asked: list[Prompts]

    @override
    def decode(
        self, features: Features, prompts: Prompts | None = None, *, multimask: bool = False
    ) -> MaskPrediction:
        assert prompts is not None
        self.asked.append(prompts)
        size = features.grid.size[0]
        rows, cols = torch.arange(size).view(-1, 1), torch.arange(size).view(1, -1)
        maps = []
        for points, labels in zip(prompts.points, prompts.labels, strict=True):
            if 2 in labels:
                (top, left), (bottom, right) = points[:2, 1:].round().tolist()
            else:
                top, left, bottom, right = *(points[0, 1:] - 3), *(points[0, 1:] + 3)
            inside = (rows >= top) & (rows <= bottom) & (cols >= left) & (cols <= right)
            maps.append(torch.where(inside, 9.0, -9.0))
        return MaskPrediction(torch.stack(maps)[:, None], torch.ones(len(maps), 1))


@pytest.fixture
def predictor() -> Predictor:
    plain = build.sam_tiny()
    filler = BoxFiller(plain.backbone, plain.prompt_encoder, plain.decoder, recipe=plain.recipe)
    filler.asked = []
    info = ModelInfo.of(filler, labels=LABELS, input=InputSpec(size=64))
    return Predictor(filler, info, device="cpu")


def boxes_only(sample: Sample) -> Sample:
    """References that are boxes: an oracle box answers them perfectly."""
    labels = np.zeros_like(sample.reference)
    labels[1:4, 4:12, 3:10] = 1
    labels[2:5, 15:24, 5:18] = 2
    return replace(sample, reference=labels)


def test_an_oracle_box_covers_exactly_the_object(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    sample = boxes_only(volume_sample(0))
    found = OraclePredictor(predictor, LABELS)(sample)
    assert found.shape == sample.reference.shape
    agreement = (found == sample.reference)[sample.reference > 0].mean()
    assert agreement > 0.95
    assert (found[sample.reference == 0] == 0).mean() > 0.97


def test_all_objects_of_a_slice_go_in_one_batch(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    OraclePredictor(predictor, LABELS)(boxes_only(volume_sample(0)))
    assert [len(prompts.labels) for prompts in predictor.segmenter.asked] == [1, 2, 2, 1]


def test_snapshots_follow_one_sequence_of_clicks(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    sample = boxes_only(volume_sample(0))
    oracle = OraclePredictor(predictor, LABELS, OracleProtocol("clicks", clicks=3))
    found = oracle.snapshots(sample, (1, 3))
    assert sorted(found) == [1, 3]
    asked = predictor.segmenter.asked[:3]
    assert [prompts.labels.shape[1] for prompts in asked] == [1, 2, 3]
    assert asked[0].masks is None
    assert asked[1].masks is not None
    np.testing.assert_array_equal(oracle(sample), found[3])


def test_the_case_decides_the_jitter_not_the_order(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    oracle = OraclePredictor(predictor, LABELS, OracleProtocol(jitter=0.2))
    first, second = volume_sample(0), volume_sample(1)
    alone = oracle(second)
    oracle(first)
    np.testing.assert_array_equal(oracle(second), alone)
    assert (replace(oracle, seed=1)(second) != alone).any()


def test_pictures_and_instances(predictor: Predictor, picture_sample: Sample) -> None:
    predictor.info = replace(predictor.info, input=InputSpec(2, 64, "rgb"))
    found = OraclePredictor(predictor, {1: "disc"})(picture_sample)
    assert found.shape == picture_sample.reference.shape
    assert len(predictor.segmenter.asked[0].labels) == 3
    assert (found[picture_sample.reference > 0] == 1).mean() > 0.95


def test_a_bare_model_reads_the_image_plainly(picture_sample: Sample) -> None:
    bare = Predictor(build.sam_tiny(), None, device="cpu")
    found = OraclePredictor(bare, {1: "disc"})(picture_sample)
    assert found.shape == picture_sample.reference.shape


def test_nothing_to_prompt_is_an_empty_map(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    sample = volume_sample(0)
    empty = replace(sample, reference=np.zeros_like(sample.reference))
    assert not OraclePredictor(predictor, LABELS)(empty).any()
    assert predictor.segmenter.asked == []


def test_the_view_is_that_of_the_model(volume_sample: Callable[[int], Sample]) -> None:
    # the boxes above rest on this: slices run along the largest spacing
    assert SliceView(volume_sample(0).source, InputSpec(size=64)).shape == (6, 28, 20)


@pytest.mark.parametrize("kind", ["box", "clicks"])
def test_with_zoom_each_object_is_seen_through_a_window_of_its_own(
    predictor: Predictor, volume_sample: Callable[[int], Sample], kind: Any
) -> None:
    predictor.info = replace(predictor.info, input=InputSpec(size=64, zoom=Zoom(2.0, 32)))
    sample = boxes_only(volume_sample(0))
    found = OraclePredictor(predictor, LABELS, OracleProtocol(kind, clicks=2))(sample)
    asked = predictor.segmenter.asked
    assert all(len(prompts.labels) == 1 for prompts in asked)
    if kind == "box":
        np.testing.assert_array_equal(found, sample.reference)
        assert len(asked) == 6  # two objects on three slices, no look at the whole
    else:
        # whole slice, window, and the second click in a window
        assert [prompts.masks is None for prompts in asked[:3]] == [True, False, False]
        assert [prompts.labels.shape[1] for prompts in asked[:3]] == [1, 1, 2]
