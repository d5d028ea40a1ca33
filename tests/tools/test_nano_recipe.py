"""The recipe of `nano`: its forward passes, one tiny run, and going on after an interruption."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam

from benchmarks.zero_shot_methods import ellipse
from segkit.backbones.checkpoints import file_sha256, load_sam, write_safetensors
from segkit.backbones.sam_modules import NANO, SIZES, TINY, SamModules
from segkit.decoders.mask import MaskDecoder
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import Features, Grid, Prompts
from tools.nano import objects, step, train
from tools.nano.export import (
    WEIGHTS,
    draw_curve,
    export,
    one_after_the_other,
    read_log,
    started_from,
)
from tools.nano.network import decode, encode, initialise
from tools.nano.validate import ellipses

SMALL = replace(TINY, name="small", rel_pos=False)


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    """A model of 64 pixels that the recipe can train, scored on few pictures."""
    monkeypatch.setitem(SIZES, "small", SMALL)
    monkeypatch.setattr(train, "validate", lambda modules: step.validate(modules, images=8))


@pytest.fixture
def modules():
    torch.manual_seed(0)
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


@pytest.mark.parametrize("draws", [False, True])
@torch.no_grad()
def test_decoding_equals_the_package(draws):
    """Clicks, boxes and earlier masks decode as in a `Segmenter` of the same weights."""
    made = SamModules(replace(SMALL, draws_prompts=draws)).eval()
    initialise(made, 0)
    maps = torch.randn(1, SMALL.out_dim, 8, 8, generator=torch.Generator().manual_seed(0))
    features = Features((maps,), Grid((1, 64, 64)))
    xy = torch.tensor([[[20.0, 31.0], [40.0, 44.0]]])
    earlier = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    for kinds in ([1, 0], [2, 3]):
        for masks in (None, earlier):
            labels = torch.tensor([kinds])
            kji = torch.cat([torch.zeros(1, 2, 1), xy.flip(-1)], -1)
            tokens = SamPromptEncoder(made.prompt_encoder)(Prompts(kji, labels, masks), (64, 64))
            wanted = MaskDecoder(made.mask_decoder).every_mask(features, tokens)
            points, given = xy, labels
            if kinds[0] < 2:
                points, given = F.pad(xy, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
            has_mask = None if masks is None else torch.ones(1)
            logits, rank = decode(made, maps, points, given, masks, has_mask)
            torch.testing.assert_close(logits, wanted.logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(rank, wanted.iou, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_smaller_image_lies_in_its_corner(modules):
    """Positions of a placed image are those of the same place in the whole frame."""
    pixels = torch.zeros(2, 3, 32, 32)
    corner = torch.tensor([[0, 0], [3, 1]])
    modules.image_encoder.blocks = torch.nn.ModuleList()
    placed = encode(modules, pixels, corner)
    whole = encode(modules, torch.zeros(1, 3, 64, 64))
    # the 3 x 3 convolution of the neck sees the border of the smaller image
    torch.testing.assert_close(placed[0, :, 1:3, 1:3], whole[0, :, 1:3, 1:3])
    torch.testing.assert_close(placed[1, :, 1:3, 1:3], whole[0, :, 4:6, 2:4])


@torch.no_grad()
def test_prompts_of_a_placed_image_move_along(modules):
    maps = torch.zeros(1, SMALL.out_dim, 4, 4)
    click, labels = torch.tensor([[[9.0, 14.0], [0.0, 0.0]]]), torch.tensor([[1, -1]])
    codes = modules.prompt_encoder.get_dense_pe()
    seen = []
    hook = modules.mask_decoder.transformer.register_forward_pre_hook(
        lambda _, args: seen.append(args)
    )
    decode(modules, maps, click, labels, corner=torch.tensor([[2, 3]]))
    hook.remove()
    _, positions, tokens = seen[0]
    assert torch.equal(positions, codes[:, :, 2:6, 3:7])
    moved = click + torch.tensor([24.0, 16.0])
    decode_args = modules.prompt_encoder.pe_layer.forward_with_coords(moved + 0.5, (64, 64))
    wanted = decode_args[:, 0] + modules.prompt_encoder.point_embeddings[1].weight
    torch.testing.assert_close(tokens[:, 5], wanted)


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


def test_choosing_the_best_mask_costs_nothing():
    quality = torch.tensor([[0.2, 0.9, 0.5, 0.1]])
    assert step.wrong_choice(quality * 10, quality) < 1e-6
    assert step.wrong_choice(-quality * 10, quality) == pytest.approx(0.8, abs=1e-6)
    assert step.wrong_choice(torch.zeros(1, 4), quality) == pytest.approx(0.475)


def test_the_drawn_ellipse_is_a_baseline_of_the_validation(modules):
    drawn = ellipses(modules, 8)
    by_hand = []
    for batch in step.validation_batches(modules, 8):
        for mask in batch.masks:
            rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            guess = ellipse(mask.shape, (cols[0], rows[0], cols[-1], rows[-1]))
            by_hand.append(2 * (guess & mask).sum() / (guess.sum() + mask.sum()))
    assert drawn == pytest.approx(np.mean(by_hand), abs=0.06)  # drawn on cells of two pixels


PHASES = (train.Phase(0.5, 32, 3), train.Phase(1.0, 64, 2))
PLAN = train.Plan(model="small", phases=PHASES, objects=2, warmup=2, blind=1)


def make(steps, plan=PLAN, start=None):
    training = train.Training(plan, start)
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


def test_the_seed_decides_every_weight():
    torch.manual_seed(5)
    one = make(0).modules.state_dict()
    torch.manual_seed(6)
    other = make(0).modules.state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_resumed_equals_unbroken(tmp_path):
    unbroken = make(4)
    first = make(2)
    first.save(tmp_path / "state.ckpt")
    second = make(0)
    second.load(tmp_path / "state.ckpt")
    for _ in range(2):
        second.advance(second.step / 6)
    assert second.images == unbroken.images == 3 * 3 + 2
    for part in ("modules", "average"):
        wanted, found = getattr(unbroken, part).state_dict(), getattr(second, part).state_dict()
        for name in wanted:
            assert torch.equal(wanted[name], found[name]), name


def test_another_plan_is_refused(tmp_path):
    make(0).save(tmp_path / "state.ckpt")
    other = train.Training(replace(PLAN, objects=3))
    with pytest.raises(ValueError, match="give the same options or another --out"):
        other.load(tmp_path / "state.ckpt")


def test_a_run_from_weights_goes_on_where_they_ended(tmp_path):
    path = tmp_path / "start.safetensors"
    first = make(1)
    sha256 = write_safetensors(path, first.modules.state_dict(), {})
    second = make(0, replace(PLAN, start=sha256), path)
    for name, tensor in first.modules.state_dict().items():
        assert torch.equal(second.modules.state_dict()[name], tensor), name
    assert not second.is_blind
    assert second.smallest(0, 64) < make(0).smallest(0, 64)
    with pytest.raises(ValueError, match=r"has the hash .*, the plan starts from 0123"):
        make(0, replace(PLAN, start="0123"), path)


def test_phases_follow_progress():
    plan = train.Plan()
    assert [plan.phase(progress).size for progress in (0, 0.44, 0.45, 1.2)] == [128, 128, 256, 256]


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


def test_the_facts_tell_what_a_run_started_from(tmp_path):
    facts = {"sha256": "0123", "training": {"steps": 7, "started_from": {"sha256": "89"}}}
    path = tmp_path / "small.json"
    path.write_text(json.dumps(facts))
    assert started_from(None, path) == {}
    assert started_from("0123", path)["started_from"] == {"sha256": "0123", **facts["training"]}
    with pytest.raises(ValueError, match=r"started from 4567, .* tells about 0123"):
        started_from("4567", path)


def test_logs_of_runs_count_on():
    logs = [[{"images": 5}, {"images": 9}], [{"images": 2}], [{"images": 4}]]
    assert [line["images"] for line in one_after_the_other(logs)] == [5, 9, 11, 15]


def test_shipped_weights_are_those_of_the_card():
    facts = json.loads((WEIGHTS / "nano.json").read_text())
    path = WEIGHTS / facts["file"]
    assert file_sha256(path) == facts["sha256"]
    assert path.stat().st_size == facts["bytes"] < 20_000_000
    assert load_sam(SamModules(NANO), path) == facts["sha256"]
    assert facts["sizes"] == json.loads(json.dumps(asdict(SIZES["nano"])))
