"""What the automatic and the interactive module predict, and what they learn from."""

from typing import Any

import pytest
import torch
from tiny_run import Squares, batch_of, tiny_segmenter

from segkit.data.batches import ImageBatch
from segkit.lightning import AutomaticModule, BatchPrediction, Interaction, InteractiveModule
from segkit.losses import DiceBCE, DiceCE, SamAdapterLoss
from segkit.typing import MaskPrediction


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def interactive(loss: Any = None, **options: Any) -> InteractiveModule:
    segmenter = tiny_segmenter(classes=None)
    plan = Interaction(**options)
    return InteractiveModule(segmenter, loss or DiceBCE(), labels=Squares.labels, interaction=plan)


@pytest.mark.parametrize(("loss", "as_masks"), [(DiceCE(), False), (SamAdapterLoss(), True)])
def test_automatic_loss_reaches_every_trainable_weight(loss: Any, as_masks: bool) -> None:
    module = AutomaticModule(
        tiny_segmenter(), loss, labels=Squares.labels, as_masks=as_masks, iou_weight=0.1
    )
    prediction = module.predict_batch(batch_of("train", [0, 1]), generator())
    assert prediction.target.ndim == (4 if as_masks else 3)
    module.total_loss(prediction).backward()
    without = [
        name
        for name, parameter in module.segmenter.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []


def test_automatic_label_map_is_the_winning_class() -> None:
    module = AutomaticModule(tiny_segmenter(), DiceCE(), labels=Squares.labels)
    batch = batch_of("train", [0])
    logits = torch.zeros(1, 2, 32, 32)
    logits[0, 0, 0, 0], logits[0, 1, 0, 0], logits[0, 0, 0, 1], logits[0, :, 1] = 1, 2, 3, -1
    prediction = BatchPrediction((MaskPrediction(logits, torch.zeros(1, 2)),), batch.mask)
    found, truth = module.label_maps(prediction, batch)
    assert found[0, :2, :3].tolist() == [[2, 1, 0], [0, 0, 0]]
    assert torch.equal(truth, batch.mask)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_interactive_rounds_correct_several_objects_of_an_image(share: float) -> None:
    module = interactive(box_share=share, rounds=3, max_objects=4)
    batch = batch_of("train", [0, 3])
    prediction = module.predict_batch(batch, generator())
    assert len(prediction.rounds) == 3
    assert prediction.image_index is not None
    assert prediction.image_index.tolist() == [0, 0, 1, 1]
    # a first click is ambiguous and gets alternatives; a box and corrections do not
    assert [one.logits.shape[1] for one in prediction.rounds] == [1 if share else 3, 1, 1]
    for row in range(4):
        image, value = int(prediction.image_index[row]), int(prediction.classes[row])
        assert torch.equal(prediction.target[row, 0] > 0, batch.mask[image] == value)
    module.total_loss(prediction).backward()
    assert module.segmenter.decoder.module.mask_tokens.weight.grad.abs().sum() > 0


def test_interaction_depends_on_its_generator_alone() -> None:
    module = interactive(box_share=0.5).eval()
    batch = batch_of("train", [0, 3])
    one, two, other = (module.predict_batch(batch, generator(seed)) for seed in (1, 1, 2))
    torch.testing.assert_close(one.rounds[-1].logits, two.rounds[-1].logits, rtol=0, atol=0)
    assert not torch.equal(one.rounds[-1].logits, other.rounds[-1].logits)


def test_max_objects_limits_each_image() -> None:
    prediction = interactive(max_objects=1).predict_batch(batch_of("train", [0, 3]), generator())
    assert prediction.image_index.tolist() == [0, 1]


def test_interactive_label_map_shows_the_surest_object() -> None:
    module = interactive()
    batch = batch_of("train", [0])
    logits = torch.full((2, 1, 32, 32), -1.0)
    logits[0, 0, 0, :2], logits[1, 0, 0, 1:3] = 1.0, 2.0
    target = torch.stack([batch.mask == 2, batch.mask == 1])[:, 0][:, None].float()
    prediction = BatchPrediction(
        (MaskPrediction(logits, torch.zeros(2, 1)),),
        target,
        torch.tensor([0, 0]),
        torch.tensor([2, 1]),
    )
    found, truth = module.label_maps(prediction, batch)
    assert found[0, 0, :4].tolist() == [2, 1, 1, 0]
    assert torch.equal(truth, batch.mask)


def test_of_alternatives_the_best_one_learns() -> None:
    module = interactive()
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    logits = torch.stack([-4 * (2 * target[0, 0] - 1), 4 * (2 * target[0, 0] - 1)])[None]
    logits.requires_grad_()
    prediction = BatchPrediction((MaskPrediction(logits, torch.ones(1, 2)),), target)
    module.iou_weight = 0.0
    module.total_loss(prediction).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().sum() == 0
    assert logits.grad[0, 1].abs().sum() > 0


def test_instances_are_objects_of_one_class() -> None:
    module = interactive(instances=True, max_objects=8)
    batch = batch_of("train", [0])
    ids = ImageBatch(
        batch.image, batch.mask * 7, batch.case_id, batch.slice_index, batch.spacing_mm
    )
    prediction = module.predict_batch(ids, generator())
    assert prediction.classes.tolist() == [1, 1]


def test_images_without_objects_cost_nothing() -> None:
    module = interactive()
    batch = batch_of("train", [0])
    empty = ImageBatch(
        batch.image,
        torch.zeros_like(batch.mask),
        batch.case_id,
        batch.slice_index,
        batch.spacing_mm,
    )
    prediction = module.predict_batch(empty, generator())
    loss = module.total_loss(prediction)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(p.grad.abs().sum()) == 0 for p in module.segmenter.decoder.parameters())
    found, truth = module.label_maps(prediction, empty)
    assert not found.any()
    assert not truth.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box_share": 1.5}, r"box_share must lie in \[0, 1\], got 1.5"),
        ({"rounds": 0}, "rounds must be >= 1, got 0"),
        ({"max_objects": 0}, "max_objects must be >= 1, got 0"),
        ({"jitter": -0.1}, r"jitter must be >= 0, got -0.1"),
    ],
)
def test_interaction_is_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interaction(**options)


def test_module_and_model_must_agree() -> None:
    with pytest.raises(ValueError, match="needs an automatic model; build it with classes=K"):
        AutomaticModule(tiny_segmenter(classes=None), DiceCE())
    with pytest.raises(ValueError, match="needs a promptable model; build it without classes"):
        InteractiveModule(tiny_segmenter(), DiceBCE())
