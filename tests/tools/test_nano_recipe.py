"""The recipe of `nano`: its forward passes, one tiny run, and going on after an interruption."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from segkit.backbones.checkpoints import file_sha256, load_sam
from segkit.backbones.sam_modules import NANO, SIZES, TINY, SamModules
from tools.nano import objects, step, train
from tools.nano.export import WEIGHTS, draw_curve, export, read_log
from tools.nano.network import decode, encode, initialise

SMALL = replace(TINY, name="small", rel_pos=False)


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    """A model of 64 pixels that the recipe can train, scored on few pictures."""
    monkeypatch.setitem(SIZES, "small", SMALL)
    monkeypatch.setattr(train, "validate", lambda modules: step.validate(modules, images=8))


@pytest.fixture
def modules():
    made = SamModules(SMALL)
    initialise(made, 0)
    return made.eval()


def test_forward_equals_upstream(modules):
    sam = Sam(modules.image_encoder, modules.prompt_encoder, modules.mask_decoder).eval()
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(0, 255, (3, 64, 64)).astype(np.float32))
    points, labels = torch.tensor([[[20.0, 31.0], [40.0, 8.0]]]), torch.tensor([[1, 0]])
    earlier = torch.from_numpy(rng.normal(size=(1, 1, 32, 32)).astype(np.float32))
    record = {
        "image": image, "original_size": (64, 64), "point_coords": points,
        "point_labels": labels, "mask_inputs": earlier,
    }  # fmt: skip
    with torch.no_grad():
        wanted = sam([record], multimask_output=True)[0]
        padded = torch.cat([points, torch.zeros(1, 1, 2)], 1)
        padding = torch.cat([labels, torch.tensor([[-1]])], 1)
        features = encode(modules, image[None])
        logits, rank = decode(modules, features, padded, padding, earlier, torch.ones(1))
    torch.testing.assert_close(logits[:, 1:], wanted["low_res_logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rank[:, 1:], wanted["iou_predictions"], rtol=1e-4, atol=1e-5)


def test_relative_positions_are_refused():
    with pytest.raises(ValueError, match="no relative positions"):
        encode(SamModules(TINY), torch.zeros(1, 3, 64, 64))


def test_a_box_is_two_corner_points(modules):
    features = torch.randn(1, SMALL.out_dim, 8, 8, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[[10.0, 12.0], [40.0, 50.0]]])
    with torch.no_grad():
        logits, _ = decode(modules, features, corners, torch.tensor([[2, 3]]))
        sparse, dense = modules.prompt_encoder(None, corners.view(1, 4), None)
        wanted, _ = modules.mask_decoder(
            features, modules.prompt_encoder.get_dense_pe(), sparse, dense, False
        )
    torch.testing.assert_close(logits[:, :1], wanted, rtol=1e-4, atol=1e-5)


def test_the_start_is_drawn_to_the_click():
    """Before any training, cells near a click match it better than cells far away."""
    start = SamModules(NANO)
    initialise(start, 0)
    attention = start.mask_decoder.transformer.layers[0].cross_attn_image_to_token
    places = start.prompt_encoder.get_dense_pe().flatten(2).permute(0, 2, 1)
    click = start.prompt_encoder.pe_layer.forward_with_coords(
        torch.tensor([[[72.0, 72.0]]]), (256, 256)
    )
    score = (attention.q_proj(places) @ attention.k_proj(click).transpose(1, 2)).view(16, 16)
    near = score[3:6, 3:6].mean()
    far = torch.cat([score[10:].flatten(), score[:, 10:].flatten()])
    assert near > far.mean() + 2 * far.std()


def test_clicks_lie_on_what_is_wrong():
    rng = np.random.default_rng(0)
    truth, guess = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    truth[2:9, 2:9], guess[2:9, 2:6], guess[12:14, 12:14] = True, True, True
    assert objects.next_click(rng, guess, truth, central=True) in {
        (7.0, row, 1) for row in (3.0, 4.0, 5.0, 6.0, 7.0)
    }
    assert objects.next_click(rng, truth, truth, central=True) == (5.0, 5.0, 1)
    assert objects.first_click(rng, truth, central=True) == (5.0, 5.0)
    np.testing.assert_array_equal(objects.box_of(rng, truth, 0.0), [[2, 2], [8, 8]])
    for _ in range(20):
        col, row, label = objects.next_click(rng, guess, truth, central=False)
        assert guess[int(row), int(col)] != truth[int(row), int(col)] == bool(label)


def test_batches_keep_to_the_smallest_area():
    large, small = (objects.draw_batch((0, 1), 6, 3, area, 64) for area in (0.08, 0.002))
    assert large.masks.shape == (18, 64, 64)
    assert large.owner.tolist() == [image for image in range(6) for _ in range(3)]
    np.testing.assert_array_equal(large.images, small.images)
    assert large.masks.mean() > 1.5 * small.masks.mean()


def test_loss_is_small_for_the_right_mask_only():
    target = torch.zeros(1, 16, 16)
    target[:, 4:9, 4:9] = 1
    right, wrong = (target * 2 - 1) * 20, (1 - target * 2) * 20
    losses = step.mask_loss(torch.stack([right, wrong], 1), target, balance=1.0)
    assert losses[0, 0] < 0.01
    assert losses[0, 1] > 5


def make(steps):
    training = train.Training(train.Plan(model="small", images=2, objects=2, warmup=2, blind=1))
    for _ in range(steps):
        training.advance(training.step / 6)
    return training


def test_a_step_changes_every_weight():
    before = make(0)
    after = make(2)
    for (name, old), new in zip(
        before.modules.named_parameters(), after.modules.parameters(), strict=True
    ):
        if "mask_downscaling" not in name:  # fed only where the draw of that step says so
            assert not torch.equal(old, new), name


def test_resumed_equals_unbroken(tmp_path):
    unbroken = make(4)
    first = make(2)
    first.save(tmp_path / "state.ckpt")
    second = make(0)
    second.load(tmp_path / "state.ckpt")
    for _ in range(2):
        second.advance(second.step / 6)
    for part in ("modules", "average"):
        wanted, found = getattr(unbroken, part).state_dict(), getattr(second, part).state_dict()
        for name in wanted:
            assert torch.equal(wanted[name], found[name]), name


def test_another_plan_is_refused(tmp_path):
    make(0).save(tmp_path / "state.ckpt")
    other = train.Training(train.Plan(model="small", images=3))
    with pytest.raises(ValueError, match="give the same options or another --out"):
        other.load(tmp_path / "state.ckpt")


def test_a_run_logs_and_exports(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    train.run(make(0), run, seconds=60, steps=2, every=0)
    log = read_log(run)
    assert [line["step"] for line in log] == [1, 2, 2]
    assert {"box", "click1", "click3", "click5"} <= set(log[-1]["dice"])
    facts = export(run, tmp_path)
    path = tmp_path / "small.safetensors"
    assert facts["sha256"] == file_sha256(path)
    assert load_sam(SamModules(SMALL), path) == facts["sha256"]
    assert json.loads((tmp_path / "small.json").read_text()) == json.loads(json.dumps(facts))
    draw_curve(log, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_shipped_weights_are_those_of_the_card():
    facts = json.loads((WEIGHTS / "nano.json").read_text())
    path = WEIGHTS / facts["file"]
    assert file_sha256(path) == facts["sha256"]
    assert path.stat().st_size == facts["bytes"] < 20_000_000
    assert load_sam(SamModules(NANO), path) == facts["sha256"]
    assert facts["sizes"] == json.loads(json.dumps(asdict(SIZES["nano"])))
