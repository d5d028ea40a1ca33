"""Builders of SAM 2, its files, and the converters of its families."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from segkit.backbones.checkpoints import read_weights, write_safetensors
from segkit.backbones.sam2_checkpoints import to_hub, to_official
from segkit.backbones.sam2_modules import SAM2_TEST, Sam2Modules
from segkit.errors import CheckpointError
from segkit.memory.modules import Sam2Memory
from segkit.models import build
from segkit.models.build_sam2 import memory_sizes
from segkit.models.conversion import convert
from segkit.models.files import load_adapter
from segkit.models.methods import describe
from segkit.typing import Prompts

CLICK = Prompts(torch.tensor([[[0.0, 20.0, 30.0]]]), torch.tensor([[1]]))
AUTHORS = {"down": "pw1.0", "branches.0": "dw2_1.0", "branches.1": "dw2_2.0", "up": "pw2.0"}


def official(seed: int = 0) -> dict[str, Tensor]:
    """State dict of an official file at the sizes of the test model."""
    torch.manual_seed(seed)
    modules, memory = Sam2Modules(SAM2_TEST), Sam2Memory(memory_sizes(SAM2_TEST))
    return {**to_official(modules.state_dict()), **memory.state_dict()}


def saved(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"model": state}, path)
    return path


def test_the_tracker_stands_on_the_weights_of_the_segmenter(tmp_path: Path) -> None:
    path = saved(official(), tmp_path / "sam2.pt")
    segmenter, tracker = (
        make(checkpoint=path) for make in (build.sam2_test, build.sam2_test.tracker)
    )
    mine, whole = segmenter.state_dict(), tracker.segmenter.state_dict()
    assert all(whole[name].equal(tensor) for name, tensor in mine.items())
    assert segmenter.recipe == tracker.segmenter.recipe
    memory = build.sam2_test.load_memory(path).state_dict()
    assert all(tracker.memory.state_dict()[name].equal(memory[name]) for name in memory)
    assert not [p for p in tracker.memory.parameters() if p.requires_grad]


def test_random_weights_of_the_image_half_do_not_depend_on_the_memory() -> None:
    alone, tracked = build.sam2_test(), build.sam2_test.tracker()
    assert alone.recipe == tracked.segmenter.recipe
    other = build.sam2_test(checkpoint="random:1")
    assert other.recipe.backbone.sha256 != alone.recipe.backbone.sha256


def test_trackers_of_released_sizes_need_weights() -> None:
    for make in (build.sam2_tiny.tracker, build.sam2_tiny.load_memory, build.sam2_tiny):
        with pytest.raises(CheckpointError, match="sam2_tiny needs weights, got checkpoint=None"):
            make()


@pytest.mark.parametrize("family", ["sam2", "medsam2"])
@pytest.mark.parametrize("layout", ["file", "hub folder"])
def test_weights_are_converted_value_for_value(family: str, layout: str, tmp_path: Path) -> None:
    state, source = official(), tmp_path
    if layout == "file":
        source = saved(state, tmp_path / "sam2.pt")
    else:
        hub = {name: tensor.clone() for name, tensor in to_hub(state).items()}
        write_safetensors(tmp_path / "model.safetensors", hub)
    record = convert(family, source, out := tmp_path / "out.safetensors", backbone="sam2_test")
    assert (record.family, record.backbone) == (family, "sam2_test")
    assert bool(record.notes) == (family == "medsam2")
    found = read_weights(out).tensors
    assert found.keys() == state.keys()
    assert all(found[name].equal(tensor) for name, tensor in state.items())
    build.sam2_test.tracker(checkpoint=out)


def with_adapter(state: dict[str, Tensor], blocks: int = 2) -> dict[str, Tensor]:
    """As DD-SAM2's training code saves a model with its adapters."""
    described = build.sam2_test(adapter=dilated(blocks)).backbone.adapter.state_dict()
    found = {f"model.{name}": tensor for name, tensor in state.items()}
    for name, tensor in described.items():
        _, block, layer, kind = name.replace("branches.", "branches-").split(".")
        layer = AUTHORS[layer.replace("-", ".")]
        found[f"model.image_encoder.trunk.blocks.{block}.adapter.{layer}.{kind}"] = tensor + 0.01
    return found


def dilated(blocks: int) -> object:
    from functools import partial

    from segkit.adapters import DepthwiseDilated

    return partial(DepthwiseDilated, blocks=blocks, compat="authors")


@pytest.mark.parametrize("has_checkpoint", [False, True])
@torch.no_grad()
def test_dd_sam2_runs_are_converted(has_checkpoint: bool, tmp_path: Path) -> None:
    state = official()
    base = saved(state, tmp_path / "sam2.pt") if has_checkpoint else None
    tuned = {**state, "sam_mask_decoder.iou_token.weight": torch.ones(1, 32)}
    run = with_adapter(tuned)
    source = saved(run, tmp_path / "run.pth")
    out = tmp_path / "adapter.safetensors"
    record = convert("dd-sam2", source, out, backbone="sam2_test", checkpoint=base)
    assert set(record.outputs) == ({"adapter"} if has_checkpoint else {"adapter", "backbone"})
    backbone = base or tmp_path / "adapter.backbone.safetensors"
    segmenter, _ = load_adapter(out, checkpoint=backbone)
    adapter, decoder = segmenter.backbone.adapter, segmenter.decoder
    assert adapter.blocks == 2
    key = "model.image_encoder.trunk.blocks.1.adapter.dw2_2.0.weight"
    assert adapter.layers[1].branches[1].weight.equal(run[key])
    assert adapter.layers[1].branches[1].dilation == (3, 3)
    assert decoder.module.iou_token.weight.equal(torch.ones(1, 32))
    assert segmenter(torch.rand(1, 3, 64, 64), CLICK).logits.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: [s.pop(k) for k in list(s) if ".adapter." in k], "holds no adapter"),
        (
            lambda s: s.update(
                {"model.image_encoder.trunk.blocks.0.adapter.blk.0.0.bias": s["model.no_obj_ptr"]}
            ),
            "serial adapter of the ablation, whose dilation rates",
        ),
        (lambda s: s.pop("model.maskmem_tpos_enc"), "missing: maskmem_tpos_enc"),
        (
            lambda s: s.pop("model.image_encoder.trunk.blocks.0.adapter.pw1.0.bias"),
            r"missing: backbone\.adapter\.layers\.0\.down\.bias",
        ),
        (
            lambda s: s.update({"model.no_obj_ptr": s["model.no_obj_ptr"] + 1}),
            r"1 frozen tensors differ from .*sam2\.pt, the first is no_obj_ptr",
        ),
    ],
)
def test_other_files_are_refused(change: object, message: str, tmp_path: Path) -> None:
    base = saved(official(), tmp_path / "sam2.pt")
    state = with_adapter(official())
    change(state)
    source = saved(state, tmp_path / "run.pth")
    out = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match=message):
        convert("dd-sam2", source, out, backbone="sam2_test", checkpoint=base)
    assert not out.exists()


@pytest.mark.parametrize("compat", [None, "authors"])
def test_dd_sam2_has_the_published_numbers(compat: str | None) -> None:
    count = describe("dd-sam2", compat=compat).parameters
    assert (count.total, count.trainable) == (39_506_578, 4_759_189)
    assert (count.parts["adapter"], count.parts["decoder"]) == (544_080, 4_215_109)


@pytest.mark.parametrize(("name", "total"), [("sam2_tiny", 38_962_498), ("nano2", 4_515_714)])
def test_backbones_are_counted_with_their_memory(name: str, total: int) -> None:
    assert describe(name).parameters.total == total
