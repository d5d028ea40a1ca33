"""Training decoders that answer coarsely first and refine where they are unsure."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from segkit.decoders import InrClassDecoder
from segkit.lightning import AutomaticModule
from segkit.lightning.base import BatchPrediction
from segkit.losses import DiceCE
from segkit.models import build
from segkit.typing import MaskPrediction


def module() -> AutomaticModule:
    torch.manual_seed(0)
    decoder = partial(InrClassDecoder, width=16, unmask_epochs=4)
    return AutomaticModule(build.sam_tiny(decoder=decoder, classes=1), DiceCE())


def test_the_loss_moves_from_the_coarse_to_the_refined_map(monkeypatch: pytest.MonkeyPatch) -> None:
    one = module()
    generator = torch.Generator().manual_seed(0)
    coarse, fine = torch.randn(2, 1, 1, 8, 8, generator=generator)
    target = torch.randint(0, 2, (1, 8, 8), generator=generator)
    iou = torch.zeros(1, 1)
    losses = [float(one.loss(each, target)) for each in (coarse, fine)]
    for epoch, share in ((0, 0.2), (2, 0.6), (4, 1.0), (9, 1.0)):
        monkeypatch.setattr(AutomaticModule, "current_epoch", epoch)
        found = one.total_loss(BatchPrediction((MaskPrediction(fine, iou, coarse),), target))
        expected = (1 - share) * losses[0] + share * losses[1]
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_decoder_hears_of_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    one = module()
    monkeypatch.setattr(AutomaticModule, "current_epoch", 1)
    one.on_train_epoch_start()
    assert float(one.segmenter.decoder.progress) == 0.5


def test_a_field_learns_a_disk_and_keeps_it_at_other_resolutions() -> None:
    segmenter = module().segmenter.train()
    axis = (torch.arange(64) + 0.5) / 32 - 1
    inside = (axis[:, None] ** 2 + axis**2 < 0.5).float()
    image = 0.2 + 0.6 * inside.expand(2, 3, 64, 64)
    target = F.interpolate(inside[None, None], size=(32, 32), mode="area").expand(2, 1, -1, -1)
    trained = [p for p in segmenter.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    features = segmenter.encode(image)
    for _ in range(40):
        optimizer.zero_grad()
        made = segmenter.decode(features)
        loss = sum(
            F.binary_cross_entropy_with_logits(maps, target) for maps in (made.logits, made.coarse)
        )
        loss.backward()
        optimizer.step()
    segmenter.eval()
    with torch.no_grad():
        for size in ((32, 32), (100, 70), (11, 90)):
            found = segmenter.decode(features, size=size).logits[0, 0] > 0
            rows, cols = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in size)
            truth = rows[:, None] ** 2 + cols**2 < 0.5
            dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
            assert dice > 0.93
