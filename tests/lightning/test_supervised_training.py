from types import SimpleNamespace

import torch

from segkit.data.batches import ImageBatch
from segkit.lightning import SupervisedModule
from segkit.losses import DiceCE
from segkit.models import build
from segkit.models.supervised import SUPERVISED
from segkit.typing import Grid


def volume_module() -> SupervisedModule:
    network = {"strides": [[2, 2, 2], [2, 2, 2]]}
    return SupervisedModule(
        SUPERVISED["stu_net_tiny"](classes=2, network=network), DiceCE(), labels={1: "a", 2: "b"}
    )


def batch() -> SimpleNamespace:
    """One volume of 16 x 16 x 16 voxels, folded."""
    return SimpleNamespace(
        image=torch.rand(16, 3, 16, 16),
        mask=torch.randint(0, 3, (1, 16, 16, 16)),
        grid=Grid((16, 16, 16)),
    )


def test_every_level_counts_half_of_the_finer_one() -> None:
    module = volume_module().train()
    prediction = module.predict_batch(batch(), torch.Generator())  # type: ignore[arg-type]
    assert len(prediction.rounds) == 5
    assert prediction.rounds[-1].logits.shape[2:] == (16, 16, 16)
    losses = [module._round_loss(one, prediction.target) for one in prediction.rounds[::-1]]
    expected = sum(loss * 0.5**level for level, loss in enumerate(losses)) / (2 - 0.5**4)
    torch.testing.assert_close(module.total_loss(prediction), expected)


def test_validation_sees_the_finest_level_alone() -> None:
    module = volume_module().eval()
    assert len(module.predict_batch(batch(), torch.Generator()).rounds) == 1  # type: ignore[arg-type]


def test_a_network_of_one_level_trains_as_any_automatic_model() -> None:
    module = SupervisedModule(build.unet_2d(classes=1), DiceCE()).train()
    pictures = ImageBatch(
        torch.rand(2, 3, 32, 32), torch.randint(0, 2, (2, 32, 32)), ("a", "b"),
        torch.zeros(2), torch.ones(2, 2),
    )  # fmt: skip
    loss = module.total_loss(module.predict_batch(pictures, torch.Generator()))
    loss.backward()
    assert all(p.grad is not None for p in module.segmenter.decoder.parameters())
