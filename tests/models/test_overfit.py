"""End to end on a tiny model: it learns one picture in both modes, and the file remembers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from segkit.losses import DiceBCE, DiceCE, iou_head_loss
from segkit.models import ModelInfo, Segmenter, build, load_adapter, save_adapter, upsample
from segkit.prompts.simulate import extend, first_prompts, next_click, sample_objects
from segkit.typing import Prompts

SIZE = (64, 64)


def picture() -> tuple[Tensor, Tensor]:
    """A disc (class 1) and a square (class 2) on noise."""
    j, i = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    labels = torch.zeros(1, *SIZE, dtype=torch.long)
    labels[0][(j - 20) ** 2 + (i - 18) ** 2 < 144] = 1
    labels[0, 36:58, 34:60] = 2
    noise = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    colours = torch.tensor([[0.2, 0.2, 0.2], [0.9, 0.3, 0.2], [0.1, 0.5, 0.9]])
    return 0.8 * colours[labels].movedim(-1, 1) + 0.2 * noise, labels


def dice(found: Tensor, wanted: Tensor) -> float:
    return (2 * (found & wanted).sum() / (found.sum() + wanted.sum())).item()


class Training:
    """Adam with a rate that falls to zero."""

    def __init__(self, segmenter: Segmenter, steps: int) -> None:
        parameters = (p for p in segmenter.parameters() if p.requires_grad)
        self.adam = torch.optim.AdamW(parameters, lr=6e-3)
        self.rate = torch.optim.lr_scheduler.LinearLR(self.adam, 1, 0.01, total_iters=steps)

    def step(self, *losses: Tensor) -> None:
        self.adam.zero_grad()
        torch.stack(losses).sum().backward()
        self.adam.step()
        self.rate.step()


def learn_classes(segmenter: Segmenter, steps: int) -> Tensor:
    image, labels = picture()
    loss, training = DiceCE(), Training(segmenter, steps)
    features = segmenter.encode(image)
    for _ in range(steps):
        prediction = segmenter.decode(features)
        logits = upsample(prediction.logits, SIZE)
        training.step(loss(logits, labels), iou_head_loss(prediction.iou, logits, labels))
    with torch.no_grad():
        return upsample(segmenter.eval()(image).logits, SIZE)


def learn_prompts(segmenter: Segmenter, steps: int) -> None:
    image, labels = picture()
    generator = torch.Generator().manual_seed(0)
    loss = DiceBCE(max_positive_weight=10)  # few steps from nothing
    training = Training(segmenter, steps)
    features = segmenter.encode(image)
    for _ in range(steps):
        objects = sample_objects(labels, None, 2, generator)
        prompts = first_prompts(
            objects.masks, generator, place="deepest", image_index=objects.image_index
        )
        target, losses = objects.masks[:, None], []
        for _ in range(2):
            prediction = segmenter.decode(features, prompts)
            logits = upsample(prediction.logits, SIZE)
            losses += [loss(logits, target), iou_head_loss(prediction.iou, logits, target)]
            click = next_click(logits[:, 0] > 0, objects.masks, generator)
            prompts = extend(prompts, click, prediction.logits.detach())
        training.step(*losses)


def test_automatic_mode_learns_two_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    segmenter = build.sam_tiny(classes=2)
    frozen = {k: v.clone() for k, v in segmenter.backbone.encoder.state_dict().items()}
    logits = learn_classes(segmenter, 80)
    _, labels = picture()
    found = torch.where(logits.amax(1) > 0, logits.argmax(1) + 1, 0)
    assert dice(found == 1, labels == 1) > 0.9
    assert dice(found == 2, labels == 2) > 0.9
    encoder = segmenter.backbone.encoder.state_dict()
    assert all(encoder[name].equal(value) for name, value in frozen.items())

    save_adapter(tmp_path / "a.safetensors", segmenter, ModelInfo.of(segmenter))
    again, _ = load_adapter(tmp_path / "a.safetensors")
    with torch.no_grad():
        assert upsample(again(picture()[0]).logits, SIZE).equal(logits)


@pytest.fixture(scope="module")
def interactive() -> Segmenter:
    torch.manual_seed(3)
    segmenter = build.sam_tiny(checkpoint="random:3")
    learn_prompts(segmenter, 80)
    return segmenter.eval()


@torch.no_grad()
def test_interactive_mode_learns_to_follow_the_click(interactive: Segmenter) -> None:
    image, labels = picture()
    points = torch.tensor([[[0.0, 20.0, 18.0]], [[0.0, 46.0, 46.0]]])
    clicks = Prompts(points, torch.ones(2, 1).long(), image_index=torch.tensor([0, 0]))
    found = upsample(interactive(image, clicks).logits, SIZE)[:, 0] > 0
    assert dice(found[0], labels[0] == 1) > 0.8
    assert dice(found[1], labels[0] == 2) > 0.8


@torch.no_grad()
def test_interactive_mode_learns_to_follow_the_box(interactive: Segmenter) -> None:
    image, labels = picture()
    box = Prompts(torch.tensor([[[0.0, 36.0, 34.0], [0.0, 57.0, 59.0]]]), torch.tensor([[2, 3]]))
    found = upsample(interactive(image, box).logits, SIZE)[:, 0] > 0
    assert dice(found[0], labels[0] == 2) > 0.8


def test_full_fine_tuning_moves_the_encoder() -> None:
    torch.manual_seed(0)
    segmenter = build.sam_tiny(classes=2, trainable="all")
    before = segmenter.backbone.encoder.blocks[0].attn.qkv.weight.clone()
    learn_classes(segmenter, 1)
    assert not before.equal(segmenter.backbone.encoder.blocks[0].attn.qkv.weight)
