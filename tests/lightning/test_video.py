"""Training on clips: what is predicted, what the loss looks at, and a whole tiny run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.adapters import DepthwiseDilated, LoRA
from segkit.data.clips import ClipBatch
from segkit.data.clips_datamodule import ClipDataModule
from segkit.data.clips_sequences import ClipSpec
from segkit.data.loading import LoaderSpec
from segkit.data.preprocess import InputSpec
from segkit.data.splits import SplitSpec
from segkit.errors import InputError
from segkit.lightning import Following, OptimizerPlan, SegmentationData, VideoModule, fit
from segkit.lightning.training import DEFAULT_TRAINER
from segkit.losses import DDSam2Loss, DiceBCE
from segkit.models import build
from segkit.models.files import load_model

SIZE = 64


def a_batch():
    """Two clips: a square that moves, the third frame unlabelled; and one that vanishes."""
    masks = torch.zeros(2, 4, SIZE, SIZE, dtype=torch.long)
    for t in range(4):
        masks[0, t, 10:30, 10 + 3 * t : 30 + 3 * t] = 1
    masks[1, :2, 30:50, 20:44] = 1
    frames = torch.rand(2, 4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    frames = 0.3 * frames + 0.5 * masks[:, :, None]
    is_labelled = torch.ones(2, 4, dtype=torch.bool)
    is_labelled[0, 2] = False
    return ClipBatch(frames, masks, is_labelled, ("a", "b"), torch.ones(2, 2))


def a_module(adapter=DepthwiseDilated, loss=None, **following):
    torch.manual_seed(0)
    segmenter = build.sam2_test(adapter=adapter)
    plan = OptimizerPlan(lr=4e-3, schedule="constant", warmup=0.0)
    return VideoModule(
        segmenter, loss or DiceBCE(), optimizer=plan, following=Following(**following)
    )


def predict(module, seed=0):
    return module.predict_batch(a_batch(), torch.Generator().manual_seed(seed))


def test_every_frame_is_predicted_and_only_labelled_ones_are_known():
    prediction = predict(a_module())
    assert [one.index for one in prediction.frames] == [0, 1, 2, 3]
    rows = prediction.objects.image_index.tolist()
    assert sorted(rows) == [0, 1]
    assert prediction.frames[2].is_known[rows.index(0)].item() is False
    assert prediction.frames[3].target[rows.index(1)].any().item() is False


def test_a_given_mask_teaches_nothing_on_its_own_frame():
    prediction = predict(a_module(box_share=0.0, mask_share=1.0))
    assert [one.index for one in prediction.frames] == [1, 2, 3]


def test_a_correction_adds_a_second_look_at_its_frame():
    seen = [[one.index for one in predict(a_module(corrections=1.0), s).frames] for s in range(4)]
    twice = {order[i] for order in seen for i in range(1, len(order)) if order[i] == order[i - 1]}
    assert twice
    assert 2 not in twice  # it is not labelled everywhere
    assert 0 not in twice


def test_the_memory_carries_gradient_and_keeps_its_weights():
    module = a_module().train()
    assert not module.tracker.memory.training
    batch = a_batch()
    batch.frames.requires_grad_(True)
    last = module.predict_batch(batch, torch.Generator()).frames[-1]
    (gradient,) = torch.autograd.grad(last.found.raw.sum(), batch.frames)
    assert gradient[:, 0].any()
    assert not any(p.requires_grad for p in module.tracker.memory.parameters())


@pytest.mark.parametrize("adapter", [DepthwiseDilated, LoRA])
def test_training_lowers_the_loss(adapter):
    module = a_module(adapter).train()
    optimizer = module.plan.build(module.segmenter)
    losses = []
    for step in range(8):
        loss = module.total_loss(predict(module, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-2:]) < 0.95 * np.mean(losses[:2])


def test_an_object_that_is_gone_teaches_visibility_alone():
    """Without visibility a frame that shows nothing has no say; the authors want it empty."""
    module = a_module(visibility_weight=0.0, iou_weight=0.0)
    gone = predict(module).frames[3]
    rows = [predict(module).objects.image_index.tolist().index(1)]
    only = replace(
        gone,
        found=gone.found[rows],
        target=gone.target[rows],
        is_known=gone.is_known[rows],
    )
    assert module._frame_loss(only).item() == 0.0
    authors = a_module(loss=DDSam2Loss(compat="authors"), compat="authors")
    wanted = DDSam2Loss(compat="authors")(
        torch.nn.functional.interpolate(only.found.raw, (SIZE, SIZE), mode="bilinear"),
        torch.zeros(1, 1, SIZE, SIZE),
    )
    torch.testing.assert_close(authors._frame_loss(only), wanted)


def test_as_the_authors_training_has_another_memory_than_validation(monkeypatch):
    """Only training: their validation, too, follows with SAM 2's own predictor."""
    module = a_module(compat="authors")
    assert module.train().tracker.memory.training  # dropout, as released
    assert not module.eval().tracker.memory.training
    sound = a_module()
    sound.segmenter.load_state_dict(module.segmenter.state_dict())
    sound.tracker.memory.load_state_dict(module.tracker.memory.state_dict())
    for one in (module, sound):
        for layer in one.tracker.memory.memory_encoder.fuser.layers:
            layer.gamma.data.fill_(0.5)

    def logits(one, mode):
        one.train(mode)
        one.tracker.memory.eval()
        return [frame.found.raw for frame in predict(one).frames]

    for mode, differs in ((False, False), (True, True)):
        pairs = list(zip(logits(module, mode), logits(sound, mode), strict=True))
        assert torch.equal(*pairs[0])  # the marked frame has no memory
        assert [torch.equal(*pair) for pair in pairs[1:]] == [not differs] * 3


def test_as_the_authors_training_lowers_the_loss():
    module = a_module(loss=DDSam2Loss(compat="authors"), compat="authors").train()
    optimizer = module.plan.build(module.segmenter)
    losses = []
    for step in range(8):
        loss = module.total_loss(predict(module, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-2:]) < 0.98 * np.mean(losses[:2])


def test_as_the_authors_windows_have_eight_frames_at_most():
    module = a_module(compat="authors").train()
    short = a_batch()
    long = ClipBatch(
        torch.cat([short.frames] * 3, 1),
        torch.cat([short.masks] * 3, 1),
        torch.cat([short.is_labelled] * 3, 1),
        short.case_id,
        short.spacing_mm,
    )
    with pytest.raises(InputError, match="windows of up to 8 frames, got 12"):
        module.predict_batch(long, torch.Generator().manual_seed(0))
    assert len(module.eval().predict_batch(long, torch.Generator().manual_seed(0)).frames) == 12


def test_label_maps_hold_the_labelled_frames_after_the_first():
    module = a_module().eval()
    batch = a_batch()
    found, truth = module.label_maps(predict(module), batch)
    assert found.shape == truth.shape == (5, SIZE, SIZE)
    assert truth.flatten(1).sum(1).tolist() == [400, 400, 480, 0, 0]


def test_clips_without_an_object_cost_nothing():
    module = a_module()
    batch = replace(a_batch(), masks=torch.zeros_like(a_batch().masks))
    prediction = module.predict_batch(batch, torch.Generator())
    assert prediction.frames == ()
    loss = module.total_loss(prediction)
    assert loss.item() == 0.0
    loss.backward()
    found, _ = module.label_maps(prediction, batch)
    assert not found.any()


def test_models_without_memory_are_refused():
    with pytest.raises(ValueError, match="clips need a promptable SAM 2, got sam_tiny"):
        VideoModule(build.sam_tiny(), DiceBCE())
    with pytest.raises(ValueError, match="sam2_test with classes"):
        VideoModule(build.sam2_test(classes=1), DiceBCE())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box_share": 0.7, "mask_share": 0.7}, r"must lie in \[0, 1\]"),
        ({"corrections": 2.0}, r"must lie in \[0, 1\]"),
        ({"max_objects": 0}, "max_objects must be >= 1"),
        ({"compat": "paper"}, "compat must be None or 'authors'"),
    ],
)
def test_impossible_users_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Following(**options)


@pytest.fixture
def recordings(tmp_path):
    for row, patient in enumerate("abcd", start=4):
        for kind in ("frames", "masks"):
            (tmp_path / "data" / "train" / patient / kind).mkdir(parents=True)
        for number in range(1, 4):
            mask = np.zeros((SIZE, SIZE), np.uint8)
            mask[4 * row : 4 * row + 20, 10 + 4 * number : 34 + 4 * number] = 255
            folder = tmp_path / "data" / "train" / patient
            Image.fromarray(mask // 2 + 40).save(folder / "frames" / f"{number:04d}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{number:04d}.png")
    return tmp_path / "data"


def test_a_run_on_clips_ends_with_an_adapter_file(recordings, tmp_path):
    data = ClipDataModule(
        recordings,
        model_input=InputSpec(dimensions=2, size=SIZE, channels="repeat"),
        clips=ClipSpec(frames=3),
        split=SplitSpec(fraction=0.25),
        loader=LoaderSpec(batch_size=2),
        cache_dir=tmp_path / "cache",
    )
    module = a_module()

    def trainer(**options):
        return DEFAULT_TRAINER(max_epochs=2, accelerator="cpu", **options)

    result = fit(module, SegmentationData(data), tmp_path / "run", trainer=trainer)
    assert result.steps == 4
    assert 0 <= result.metrics["val/dice"] <= 1
    loaded, info = load_model(tmp_path / "run" / "adapter.safetensors")
    assert info.recipe.backbone.name == "sam2_test"
    for name, tensor in module.segmenter.trainable_state().items():
        torch.testing.assert_close(loaded.trainable_state()[name], tensor)
