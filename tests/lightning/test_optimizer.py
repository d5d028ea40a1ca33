"""Parameter groups and the course of the learning rate."""

import pytest
import torch

from segkit.adapters import DepthwiseDilated, LoRA
from segkit.lightning.optimizer import OptimizerPlan, part_of, trainable_parameters
from segkit.models import build


def test_rate_rises_linearly_then_falls_by_a_half_cosine_to_the_floor() -> None:
    plan = OptimizerPlan(warmup=0.2, floor=0.1)
    assert plan.factor(0.1) == pytest.approx(0.5)
    assert plan.factor(0.2) == pytest.approx(1.0)
    assert plan.factor(0.6) == pytest.approx(0.1 + 0.9 * 0.5)
    assert plan.factor(1.0) == plan.factor(1.5) == pytest.approx(0.1)
    assert OptimizerPlan(schedule="constant", warmup=0).factor(0.9) == 1.0


def test_parts_get_their_own_rate_and_vectors_no_decay() -> None:
    segmenter = build.sam_tiny(classes=2, adapter=DepthwiseDilated)
    optimizer = OptimizerPlan(lr=1e-3, lr_by_part={"decoder": 1e-4}).build(segmenter)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["adapter"]["lr"] == 1e-3
    assert groups["decoder"]["lr"] == groups["decoder/no_decay"]["lr"] == 1e-4
    assert groups["decoder"]["weight_decay"] == 0.01
    assert groups["decoder/no_decay"]["weight_decay"] == 0
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(trainable_parameters(segmenter))


def test_what_an_adapter_puts_into_the_frozen_encoder_is_the_adapters() -> None:
    segmenter = build.sam_tiny(classes=1, adapter=LoRA)
    parts = {part_of(name, segmenter) for name in trainable_parameters(segmenter)}
    assert parts == {"adapter", "decoder"}


def test_encoder_is_a_part_of_its_own_when_everything_is_trained() -> None:
    segmenter = build.sam_tiny(classes=1, trainable="all")
    optimizer = OptimizerPlan(lr_by_part={"encoder": 1e-5}).build(segmenter)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["encoder"] == 1e-5
    assert rates["decoder"] == 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_by_part": {"head": 1.0}}, r"lr_by_part names \['head'\]; allowed: \['adapter'"),
        ({"lr": -1.0}, "learning rate 'lr' must be >= 0"),
        ({"lr": float("nan")}, "must be >= 0 and finite, got nan"),
        ({"warmup": 1.0}, r"warmup is a share of the training in \[0, 1\), got 1.0"),
        ({"schedule": "step"}, "schedule must be 'cosine', .*'constant' or 'halved', got 'step'"),
        ({"follow": "epochs"}, "follow must be 'steps' or 'time', got 'epochs'"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerPlan(**options)  # type: ignore[arg-type]


def test_nothing_to_train_is_refused() -> None:
    segmenter = build.sam_tiny(classes=1).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter is trainable"):
        OptimizerPlan().build(segmenter)


def test_algorithm_is_a_choice() -> None:
    segmenter = build.sam_tiny(classes=1)
    assert isinstance(OptimizerPlan(algorithm=torch.optim.SGD).build(segmenter), torch.optim.SGD)


def test_a_halved_rate_stays_until_half_way() -> None:
    plan = OptimizerPlan(schedule="halved", warmup=0.0)
    assert [plan.factor(progress) for progress in (0.0, 0.49, 0.5, 1.0)] == [1.0, 1.0, 0.5, 0.5]
