"""The simulated user: which objects, where the prompts lie, and what is refused."""

import numpy as np
import pytest
import torch

from segkit.evaluation.oracle import OracleProtocol, targets
from segkit.typing import BOX_FIRST, BOX_LAST

MAP = np.zeros((12, 16), dtype=np.uint8)
MAP[1:5, 1:4] = 1
MAP[7:10, 8:15] = 1
MAP[1:3, 10:12] = 2


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_components_are_prompted_one_by_one_the_largest_first() -> None:
    found = targets(MAP, {1: "a", 2: "b"}, OracleProtocol())
    assert [(target.value, int(target.mask.sum())) for target in found] == [
        (1, 21),
        (1, 12),
        (2, 4),
    ]


def test_a_class_can_be_one_object() -> None:
    found = targets(MAP, {1: "a", 2: "b", 3: "c"}, OracleProtocol(objects="class"))
    assert [(target.value, int(target.mask.sum())) for target in found] == [(1, 33), (2, 4)]


def test_instances_tell_touching_objects_apart() -> None:
    ids = np.zeros((6, 6), dtype=np.uint16)
    ids[:, :2], ids[:, 2:5] = 300, 7
    found = targets((ids > 0).astype(np.uint8), {1: "cell"}, OracleProtocol(), ids)
    assert [(target.value, int(target.mask.sum())) for target in found] == [(1, 18), (1, 12)]


def test_the_largest_objects_are_kept() -> None:
    found = targets(MAP, {1: "a"}, OracleProtocol(max_objects=1))
    assert [int(target.mask.sum()) for target in found] == [21]


def test_box_touches_the_object_on_all_sides() -> None:
    prompts = OracleProtocol().first((MAP == 2)[None], rng())
    assert prompts.points[0, :, 1:].tolist() == [[1, 10], [2, 11]]
    assert prompts.labels[0].tolist() == [BOX_FIRST, BOX_LAST]


def test_jitter_moves_the_box() -> None:
    exact = OracleProtocol().first((MAP == 2)[None], rng())
    moved = OracleProtocol(jitter=0.2).first((MAP == 2)[None], rng())
    assert not torch.equal(exact.points, moved.points)


def test_clicks_go_to_the_middle_and_then_to_the_largest_error() -> None:
    protocol = OracleProtocol("clicks", clicks=2)
    square = np.zeros((1, 11, 11), dtype=bool)
    square[0, 2:9, 2:9] = True
    first = protocol.first(square, rng())
    assert first.points[0, 0].tolist() == [0, 5, 5]
    too_much = square.copy()
    too_much[0, :, 9:] = True
    second = protocol.correct(first, too_much, square, rng())
    assert second.labels[0].tolist() == [1, 0]
    assert second.points[0, 1, 2] >= 9


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        (OracleProtocol(), "oracle box per object and slice"),
        (OracleProtocol(jitter=0.1), "oracle box per object and slice, jitter 10%"),
        (OracleProtocol("clicks", objects="class"), "1 oracle click per class and slice"),
        (
            OracleProtocol("clicks", clicks=3),
            "3 oracle clicks, each on the largest error, per object and slice",
        ),
    ],
)
def test_every_description_says_oracle(protocol: OracleProtocol, text: str) -> None:
    assert protocol.describe() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "lasso"}, r"kind must be one of .*got 'lasso'"),
        ({"objects": "voxel"}, r"objects must be one of .*got 'voxel'"),
        ({"clicks": 0}, "clicks and max_objects must be >= 1, got 0"),
        ({"jitter": 0.5}, r"jitter must be in \[0, 0.5\) of the box, got 0.5"),
    ],
)
def test_impossible_users_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OracleProtocol(**arguments)
