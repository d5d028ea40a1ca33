"""Two processes on the CPU: one folder, shared gradients, every case validated once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny_run import tiny_fit, tiny_module
from torch import Tensor

from segkit.lightning import read_checkpoint
from segkit.lightning.optimizer import trainable_parameters
from segkit.losses import DiceCE

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning",
    "ignore:.*barrier.*:UserWarning",
)


class Note(Callback):
    """Each process notes what it saw and the gradients it stepped with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        batch = arguments[2]
        self.lines.append(f"saw {batch.case_id} {batch.slice_index.tolist()}")

    def on_before_optimizer_step(self, *arguments: Any) -> None:
        parameters = trainable_parameters(arguments[1].segmenter).values()
        gradients = [each.grad.flatten() for each in parameters if each.grad is not None]
        self.lines.append(f"gradient {torch.cat(gradients).double().sum().item()!r}")

    def on_validation_end(self, *arguments: Any) -> None:
        self.lines.append(f"cases {arguments[1].tally.cases}")

    def on_train_end(self, *arguments: Any) -> None:
        path = self.folder / f"rank_{arguments[0].global_rank}.txt"
        path.write_text("\n".join(self.lines), encoding="utf-8")


def test_gradients_are_synchronised_and_validation_counts_all_cases(tmp_path: Path) -> None:
    tiny_fit(
        tmp_path / "run",
        trainer_max_epochs=1,
        trainer_devices=2,
        trainer_strategy="ddp_fork_find_unused_parameters_true",
        callbacks=[Note(tmp_path)],
    )
    one, two = ((tmp_path / f"rank_{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert len(one) == len(two) == 7
    for index in range(0, 6, 2):
        assert one[index] != two[index]  # different batches
        assert one[index + 1] == two[index + 1]  # the same gradient
    assert one[-1] == two[-1] == "cases 3"
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3


class NanOnOneRank(DiceCE):
    """The second call is NaN on the second process only."""

    calls = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        is_bad = self.calls == 2 and torch.distributed.get_rank() == 1
        return super().forward(logits, target) * (float("nan") if is_bad else 1.0)


def test_all_processes_skip_a_step_together(tmp_path: Path) -> None:
    module = tiny_module()
    module.loss = NanOnOneRank()
    tiny_fit(
        tmp_path,
        module=lambda: module,
        trainer_max_epochs=1,
        trainer_devices=2,
        trainer_strategy="ddp_fork_find_unused_parameters_true",
    )
    state = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert state["segkit"]["guard"] == {"total": 1, "in_a_row": 0}
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())
