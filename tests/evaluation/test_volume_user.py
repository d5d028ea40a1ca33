"""Simulated users in volumes: what they click, what is shared, and what is written down."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from typing_extensions import override

from segkit.data.preprocess import InputSpec
from segkit.errors import InputError
from segkit.evaluation.interactions import to_csv
from segkit.evaluation.oracle import OracleProtocol
from segkit.evaluation.robustness import robustness
from segkit.evaluation.rows import Row
from segkit.evaluation.samples import Sample
from segkit.evaluation.settings import RobustnessPlan
from segkit.evaluation.statistics import Resampling
from segkit.evaluation.volume_user import VolumeOracle
from segkit.models import build
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.predictors.base import Predictor
from segkit.typing import BOX_FIRST, BOX_LAST, Features, MaskPrediction, Prompts

LABELS = {1: "front", 2: "back"}
CLICKS = OracleProtocol("clicks", per="volume")


class Balls(Segmenter):
    """Answers with balls of three voxels around clicks that add, without those that remove."""

    asked: list[Prompts]

    @override
    def decode(
        self,
        features: Features,
        prompts: Prompts | None = None,
        *,
        multimask: bool = False,
        size: tuple[int, ...] | None = None,
        area: tuple[float, ...] | None = None,
    ) -> MaskPrediction:
        assert prompts is not None
        self.asked.append(prompts)
        shape = features.grid.shape
        inside = torch.zeros(shape, dtype=torch.bool)
        axes = [torch.arange(side) for side in shape]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        marks = zip(prompts.points[0], prompts.labels[0].tolist(), strict=True)
        for point, label in marks:
            if label not in (BOX_FIRST, BOX_LAST):
                near = (place - point).square().sum(-1) <= 9
                inside = inside | near if label else inside & ~near
        first, last = (prompts.points[0][prompts.labels[0] == kind] for kind in (2, 3))
        if len(first):
            inside |= ((place >= first[0]) & (place <= last[0])).all(-1)
        logits = torch.where(inside, 9.0, -9.0)[None, None]
        return MaskPrediction(logits, torch.ones(1, 1))


@pytest.fixture
def predictor() -> Predictor:
    plain = build.sam3d_tiny()
    balls = Balls(plain.backbone, plain.prompt_encoder, plain.decoder, recipe=plain.recipe)
    balls.asked = []
    spec = InputSpec(channels="repeat", patch=(8, 28, 20))
    return Predictor(balls, ModelInfo.of(balls, labels=LABELS, input=spec), device="cpu")


def test_clicks_lie_in_the_object_and_correct_it(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    oracle = VolumeOracle(predictor, LABELS, replace(CLICKS, clicks=4))
    sample = volume_sample(0)
    found = oracle(sample)
    acts = oracle.desk.diary.acts
    assert found.shape == sample.reference.shape
    assert [(act.value, act.number) for act in acts] == [
        (value, number) for number in range(1, 5) for value in LABELS
    ]
    for act in acts:
        place = (int(act.k), int(act.j), int(act.i))
        assert (sample.reference[place] == act.value) == (act.label == 1)
    for value in LABELS:
        dice = [act.dice for act in acts if act.value == value]
        assert dice[-1] > dice[0]


def test_more_clicks_go_on_where_fewer_stopped(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    first = VolumeOracle(predictor, LABELS, replace(CLICKS, clicks=1))
    more = replace(first, protocol=replace(CLICKS, clicks=3))
    sample, asked = volume_sample(0), predictor.segmenter.asked
    one, three = first(sample), more(sample)
    assert len(asked) == 6
    alone = VolumeOracle(predictor, LABELS, replace(CLICKS, clicks=3))
    np.testing.assert_array_equal(alone(sample), three)
    shown = alone.snapshots(sample, (1, 3))
    np.testing.assert_array_equal(shown[1], one)
    np.testing.assert_array_equal(shown[3], three)
    assert (one > 0).sum() < (three > 0).sum()


def test_drawn_clicks_lie_anywhere_on_the_object(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    protocol = replace(CLICKS, clicks=5, user="draws")
    oracle, sample = VolumeOracle(predictor, LABELS, protocol, seed=3), volume_sample(1)
    oracle(sample)
    places = {(a.k, a.j, a.i): a.value for a in oracle.desk.diary.acts}
    assert len(places) > 5
    assert all(sample.reference[tuple(map(int, at))] == value for at, value in places.items())
    again = VolumeOracle(predictor, LABELS, protocol, seed=3)
    again(sample)
    assert [a.k for a in again.desk.diary.acts] == [a.k for a in oracle.desk.diary.acts]


def test_a_box_spans_the_object(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    oracle, sample = VolumeOracle(predictor, {1: "front"}), volume_sample(0)
    found = oracle(sample)
    inside = np.argwhere(sample.reference == 1)
    box = tuple(slice(a, b + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True))
    expected = np.zeros_like(sample.reference)
    expected[box] = 1
    np.testing.assert_array_equal(found, expected)


def test_without_a_target_nothing_is_asked(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    sample = volume_sample(0)
    empty = replace(sample, reference=np.zeros_like(sample.reference))
    oracle = VolumeOracle(predictor, LABELS, CLICKS)
    assert not oracle(empty).any()
    assert predictor.segmenter.asked == []
    assert oracle.desk.diary.summarise(5, Resampling()) == {"objects": 0}


def test_models_of_slices_carry_their_masks_on(volume_sample: Callable[[int], Sample]) -> None:
    plain = build.sam_tiny()
    info = ModelInfo.of(plain, labels=LABELS, input=InputSpec(size=64))
    oracle = VolumeOracle(Predictor(plain, info, device="cpu"), LABELS, CLICKS)
    found = oracle.snapshots(volume_sample(0), (1, 2))
    assert {labels.shape for labels in found.values()} == {(6, 28, 20)}
    assert {act.number for act in oracle.desk.diary.acts} == {1, 2}


def test_the_diary_tells_clicks_needed_and_is_written_by_click(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    oracle = VolumeOracle(predictor, LABELS, replace(CLICKS, clicks=8))
    for number in range(3):
        oracle(volume_sample(number))
    diary = oracle.desk.diary
    found = diary.summarise(8, Resampling(resamples=100))
    assert (found["objects"], found["clicks_allowed"]) == (6, 8)
    assert found["coverage"]["mean"] == 1
    easy, hard = (found["clicks_to_dice"][name] for name in ("0.8", "0.9"))
    assert 1 < easy["mean"] <= hard["mean"] <= 8
    assert easy["reached"] >= hard["reached"]
    lines = list(csv.DictReader(io.StringIO(to_csv({"adapted": diary}))))
    assert len(lines) == len(diary.acts)
    assert (lines[0]["row"], lines[0]["case"], lines[0]["number"]) == ("adapted", "case_0", "1")
    assert float(lines[0]["dice"]) == pytest.approx(diary.acts[0].dice, abs=1e-5)
    oracle(volume_sample(0))
    assert len(diary.acts) == len(lines)


def test_robustness_varies_boxes_and_clicks_and_leaves_the_diary_alone(
    predictor: Predictor, volume_sample: Callable[[int], Sample]
) -> None:
    first = VolumeOracle(predictor, LABELS, replace(CLICKS, clicks=1))
    more = replace(first, protocol=replace(CLICKS, clicks=3))
    rows = [
        Row(name, name, oracle, "clicks", is_oracle=True)
        for name, oracle in (("adapted", first), ("adapted_3_clicks", more))
    ]
    plan = RobustnessPlan(cases=1, jitter=(0.0, 0.3), clicks=(1, 4))
    found = robustness(rows, [volume_sample(0)], plan)
    assert set(found["clicks"]["rows"]) == {"adapted"}
    exact, shaken = found["box_jitter"]["rows"]["adapted"]["dice"]
    few, many = found["clicks"]["rows"]["adapted"]["dice"]
    assert exact > shaken
    assert many > few
    assert first.desk.diary.acts == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per": "case"}, "per must be one of .*'slice', 'volume'.*, got 'case'"),
        ({"user": "guesses"}, "user must be one of .*'corrects', 'draws'.*, got 'guesses'"),
        ({"counts": ()}, r"counts must be numbers of clicks >= 1, got \[\]"),
        ({"counts": (0, 1)}, r"counts must be numbers of clicks >= 1, got \[0, 1\]"),
    ],
)
def test_impossible_protocols_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OracleProtocol(**arguments)
