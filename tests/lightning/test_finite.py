"""Steps that are not finite are skipped, counted, and end the run when too many follow."""

import csv
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_fit, tiny_module
from torch import Tensor

from segkit.lightning import DivergedError, FiniteGuard, SegmentationModule, read_checkpoint
from segkit.losses import DiceCE


class SometimesNan(DiceCE):
    """A loss that is NaN in some of its calls; validation calls count too."""

    def __init__(self, bad_calls: set[int]) -> None:
        super().__init__()
        self.bad_calls, self.calls = bad_calls, 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        loss = super().forward(logits, target)
        return loss * float("nan") if self.calls - 1 in self.bad_calls else loss


def module_with(bad_calls: set[int], limit: int) -> SegmentationModule:
    module = tiny_module(guard=FiniteGuard(limit))
    module.loss = SometimesNan(bad_calls)
    return module


def test_bad_steps_are_skipped_counted_and_listed_by_case(tmp_path: Path) -> None:
    tiny_fit(
        tmp_path,
        trainer_max_epochs=1,
        trainer_limit_train_batches=4,
        module=lambda: module_with({1, 2}, limit=3),
    )
    text = (tmp_path / "skipped_batches.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(row["case_ids"].startswith("train_") for row in rows)
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert state["segkit"]["guard"] == {"total": 2, "in_a_row": 0}
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


def test_too_many_in_a_row_stop_the_run_and_leave_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        DivergedError, match=r"skipped_batches\.csv: stopped after 2 steps in a row"
    ):
        tiny_fit(
            tmp_path,
            trainer_limit_train_batches=6,
            keeper_every_n_steps=1,
            module=lambda: module_with({3, 4}, limit=2),
        )
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


def test_gradient_that_is_not_finite_does_not_reach_the_weights(tmp_path: Path) -> None:
    module = tiny_module(guard=FiniteGuard(5))
    module.segmenter.decoder.class_tokens.register_hook(lambda grad: grad * float("inf"))
    before = module.segmenter.decoder.class_tokens.detach().clone()
    tiny_fit(tmp_path, trainer_max_epochs=1, trainer_limit_train_batches=2, module=lambda: module)
    assert module.guard.total == 2
    assert torch.equal(module.segmenter.decoder.class_tokens, before)


def test_limit_is_checked() -> None:
    with pytest.raises(ValueError, match="limit must be >= 1, got 0"):
        FiniteGuard(0)


def test_without_a_folder_the_message_names_the_cases() -> None:
    with pytest.raises(DivergedError, match=r"cases \['a', 'b'\]: stopped after 1 steps"):
        FiniteGuard(1).failed("the loss", 3, ["b", "a"])
