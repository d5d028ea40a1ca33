"""The recipe of `nano2`: two tiny stages, going on after an interruption, and what is written."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from segkit.backbones.checkpoints import file_sha256
from segkit.backbones.sam2_modules import NANO2, SAM2_TEST, Sam2Modules
from segkit.models import build
from segkit.models.build_sam2 import SAM2_BUILDERS
from tools.nano.export import WEIGHTS, read_log
from tools.nano2 import pictures, tracking, train
from tools.nano2.export import draw_curves, export
from tools.nano2.network import assemble, initialise, initialise_memory, make_memory
from tools.nano2.pool import Pool, encode_clip, frame_of
from tools.nano2.training import Plan, run

OPTIONS = {"frames": 4, "size": 64, "objects": 2}
PICTURES = Plan(stage="pictures", model="sam2_test", size=64, batch=2, objects=2, warmup=1)
CLIPS = Plan(stage="clips", model="sam2_test", size=64, batch=2, objects=2, warmup=1)


@pytest.fixture(autouse=True)
def small_stages(monkeypatch):
    """Few clips, scored on few samples."""
    monkeypatch.setattr(train.Clips, "pooled", 3)
    monkeypatch.setattr(train.Clips, "checked", 2)
    monkeypatch.setattr(train.Clips, "options", {"frames": 4, "objects": 2})
    few = pictures.validate
    monkeypatch.setattr(pictures, "validate", lambda model, size: few(model, size, images=8))


@pytest.fixture
def modules():
    made = Sam2Modules(SAM2_TEST)
    initialise(made, 0)
    return made


def test_decoder_and_prompts_of_nano_fit_nano2():
    modules = Sam2Modules(NANO2)
    initialise(modules, 1)
    nano = build.nano()
    torch.testing.assert_close(
        modules.sam_mask_decoder.mask_tokens.weight, nano.decoder.module.mask_tokens.weight
    )
    torch.testing.assert_close(
        modules.sam_prompt_encoder.no_mask_embed.weight,
        nano.prompt_encoder.module.no_mask_embed.weight,
    )


def test_pictures_are_turned_with_their_masks():
    batch = pictures.draw_batch((3,), 2, 2, 0.01, 64)
    turned = pictures.turned(batch, np.random.default_rng(2))
    assert turned.images.shape == batch.images.shape
    assert (turned.masks != batch.masks).any()
    np.testing.assert_array_equal(turned.masks.sum((1, 2)), batch.masks.sum((1, 2)))


def test_a_pool_depends_on_seed_and_step_alone(modules):
    segmenter = assemble(modules).eval().requires_grad_(False)
    grown = Pool(segmenter, 1, 0, 3, **OPTIONS)
    for step in (0, 1):
        grown.renew(step)
    resumed = Pool(segmenter, 1, 1, 3, **OPTIONS)
    resumed.renew(1)
    for slot in range(3):
        np.testing.assert_array_equal(grown.clips[slot].masks, resumed.clips[slot].masks)


def test_encoded_frames_are_those_of_the_encoder(modules):
    segmenter = assemble(modules).eval().requires_grad_(False)
    clips = [encode_clip(segmenter, (4, number), **OPTIONS) for number in range(2)]
    features = frame_of(clips, 1)
    assert [tuple(level.shape) for level in features.levels] == [
        (2, 4, 16, 16), (2, 8, 8, 8), (2, 32, 4, 4)
    ]  # fmt: skip
    for clip in clips:
        assert clip.shares.shape[2:] == (16, 16)
        assert (clip.masks[:, 0].mean((1, 2)) >= 0.006).all()


@pytest.mark.parametrize("kind", tracking.KINDS)
def test_every_kind_of_prompt_starts_a_track(modules, kind):
    segmenter = assemble(modules).eval().requires_grad_(False)
    memory = make_memory(SAM2_TEST)
    clips = [encode_clip(segmenter, (4, number), **OPTIONS) for number in range(2)]
    initialise_memory(memory, clips[0].levels[-1].float(), 0)
    tracker = train.Tracker(segmenter, memory).eval()
    bank, prompts, shares = tracking.start(clips, kind, np.random.default_rng(0), exact=True)
    found, bank = tracker.step(frame_of(clips, 0), prompts, bank)
    found, bank = tracker.step(frame_of(clips, 1), None, bank)
    assert len(found.ids) == len(shares) == sum(len(clip.masks) for clip in clips)
    assert torch.isfinite(found.raw).all()


def test_a_run_can_be_interrupted(tmp_path):
    whole, part, rest = (train.Pictures(PICTURES) for _ in range(3))
    for _ in range(3):
        whole.advance(0.5)
    part.advance(0.5)
    part.save(tmp_path / "state.ckpt")
    rest.load(tmp_path / "state.ckpt")
    for _ in range(2):
        rest.advance(0.5)
    for name, weight in whole.modules.state_dict().items():
        torch.testing.assert_close(rest.modules.state_dict()[name], weight)


def test_another_plan_is_refused(tmp_path):
    train.Pictures(PICTURES).save(tmp_path / "state.ckpt")
    other = train.Pictures(Plan(**{**asdict(PICTURES), "rate": 1e-4}))
    with pytest.raises(ValueError, match="give the same options or another --out"):
        other.load(tmp_path / "state.ckpt")


def test_two_stages_end_in_files_that_the_builder_loads(tmp_path):
    run(train.Pictures(PICTURES), tmp_path, 60, 1e9, steps=2)
    half = train.image_half(tmp_path / "pictures_best.ckpt", "sam2_test")
    before = half.image_encoder.neck.convs[0].conv.weight.clone()
    clips = train.Clips(CLIPS, half)
    run(clips, tmp_path, 60, 1e9, steps=3)
    torch.testing.assert_close(half.image_encoder.neck.convs[0].conv.weight, before)
    log = read_log(tmp_path)
    assert [line["stage"] for line in log] == ["pictures", "clips"]
    assert {"box", "mask", "click", "copy", "visible", "mean"} == set(log[1]["dice"])
    draw_curves(log, tmp_path / "curve.png")
    facts = export(tmp_path, tmp_path)
    weights = tmp_path / "sam2_test.safetensors"
    assert file_sha256(weights) == facts["sha256"]
    assert json.loads((tmp_path / "sam2_test.json").read_text()) == json.loads(json.dumps(facts))
    tracker = SAM2_BUILDERS["sam2_test"].tracker(checkpoint=weights)
    wanted = clips.average["memory"].maskmem_tpos_enc
    torch.testing.assert_close(tracker.memory.maskmem_tpos_enc, wanted, atol=1e-3, rtol=1e-3)


def test_the_shipped_weights_are_those_their_card_describes():
    facts = json.loads((WEIGHTS / "nano2.json").read_text())
    path = WEIGHTS / facts["file"]
    assert file_sha256(path) == facts["sha256"]
    assert path.stat().st_size == facts["bytes"]
    both = facts["bytes"] + (WEIGHTS / "nano.safetensors").stat().st_size
    assert both <= 25e6
    tracker = SAM2_BUILDERS["nano2"].tracker()
    parts = {"image": tracker.segmenter, "memory": tracker.memory}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert counts == facts["parts"]
    card = (WEIGHTS.parents[1] / "docs" / "models" / "nano2.md").read_text()
    assert facts["sha256"] in card
    assert f"{facts['bytes']:,} bytes" in card
