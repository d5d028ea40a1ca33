"""Adapter files, run folders and names: what was saved comes back, everything else is refused."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import segkit.adapters
from segkit.adapters import Adapter, DepthwiseDilated, LoRA, Stack
from segkit.backbones.checkpoints import read_weights, write_safetensors
from segkit.backbones.sam_modules import TINY, SamModules
from segkit.errors import CheckpointError, InputError
from segkit.models import ModelInfo, Segmenter, build, load_adapter, load_model, save_adapter
from segkit.prompts import SamPromptEncoder
from segkit.typing import Prompts

CLICK = Prompts(torch.tensor([[[0.0, 20.0, 30.0]]]), torch.tensor([[1]]))


def changed(segmenter: Segmenter) -> Segmenter:
    """Move every trained tensor, as training would."""
    generator = torch.Generator().manual_seed(0)
    for tensor in segmenter.trainable_state().values():
        tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return segmenter.eval()


def logits(segmenter: Segmenter) -> torch.Tensor:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return segmenter(image, None if segmenter.is_automatic else CLICK).logits


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    segmenter = changed(build.sam_tiny(classes=2))
    save_adapter(tmp_path / "adapter.safetensors", segmenter, ModelInfo.of(segmenter))
    return tmp_path / "adapter.safetensors"


def rewrite(path: Path, **entries: object) -> None:
    """Write a valid file with another description."""
    weights = read_weights(path)
    document = {**json.loads(weights.metadata["segkit"]), **entries}
    tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    write_safetensors(path, tensors, {"segkit": json.dumps(document)})


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("trainable", ["adapter", "decoder", "all"])
def test_what_was_saved_comes_back(tmp_path: Path, classes: int | None, trainable: str) -> None:
    segmenter = changed(build.sam_tiny(classes=classes, trainable=trainable, image_size=96))
    labels = {} if classes is None else {1: "liver", 3: "spleen"}
    save_adapter(tmp_path / "a.safetensors", segmenter, ModelInfo.of(segmenter, labels=labels))
    again, info = load_adapter(tmp_path / "a.safetensors")
    assert logits(again).equal(logits(segmenter))
    assert not again.training
    assert again.recipe == segmenter.recipe == info.recipe
    assert again.spec.image_size == 96
    assert info.labels == labels


def test_a_file_of_half_the_size_gives_nearly_the_same(tmp_path: Path) -> None:
    segmenter = changed(build.sam_tiny(classes=1))
    info = ModelInfo.of(segmenter)
    save_adapter(tmp_path / "a.safetensors", segmenter, info)
    save_adapter(tmp_path / "b.safetensors", segmenter, info, dtype=torch.bfloat16)
    again, _ = load_adapter(tmp_path / "b.safetensors")
    full, half = (tmp_path.joinpath(f"{name}.safetensors").stat().st_size for name in "ab")
    assert half < 0.6 * full
    want, got = logits(segmenter), logits(again)
    assert got.dtype == torch.float32
    assert 0 < (got - want).abs().max() < 0.05 * want.abs().max()


def test_weights_that_do_not_fit_the_type_of_the_file_are_refused(tmp_path: Path) -> None:
    segmenter = changed(build.sam_tiny(classes=1))
    info, path = ModelInfo.of(segmenter), tmp_path / "a.safetensors"
    with torch.no_grad():
        next(iter(segmenter.trainable_state().values())).fill_(1e6)
    with pytest.raises(InputError, match=r"values up to 1e\+06, too large for torch.float16"):
        save_adapter(path, segmenter, info, dtype=torch.float16)
    with pytest.raises(InputError, match=r"cannot be stored as torch.int8"):
        save_adapter(path, segmenter, info, dtype=torch.int8)
    assert not path.exists()


ADAPTERS = [
    value
    for value in vars(segkit.adapters).values()
    if isinstance(value, type) and issubclass(value, Adapter)
]
STACK = partial(Stack, adapters=[LoRA, partial(DepthwiseDilated, blocks=2)])


@pytest.mark.parametrize("adapter", [*ADAPTERS, STACK])
@pytest.mark.parametrize("trainable", ["adapter", "all"])
def test_every_adapter_comes_back(tmp_path: Path, adapter: object, trainable: str) -> None:
    segmenter = changed(build.sam_tiny(classes=1, adapter=adapter, trainable=trainable))
    untouched = build.sam_tiny(classes=1, adapter=adapter, trainable=trainable)
    save_adapter(tmp_path / "a.safetensors", segmenter, ModelInfo.of(segmenter))
    again, _ = load_adapter(tmp_path / "a.safetensors")
    assert logits(again).equal(logits(segmenter))
    assert not logits(untouched).allclose(logits(segmenter))


def test_a_trained_prompt_encoder_comes_back(tmp_path: Path) -> None:
    segmenter = changed(build.sam_tiny(prompt_encoder=partial(SamPromptEncoder, trained="all")))
    save_adapter(tmp_path / "a.safetensors", segmenter, ModelInfo.of(segmenter))
    assert logits(load_adapter(tmp_path / "a.safetensors")[0]).equal(logits(segmenter))


def test_files_never_hold_the_frozen_encoder(saved: Path) -> None:
    names = read_weights(saved).tensors
    assert names
    assert not [name for name in names if "encoder" in name]


def test_another_backbone_is_refused_with_both_hashes(saved: Path, tmp_path: Path) -> None:
    trained_on = build.sam_tiny().recipe.backbone.sha256
    other = tmp_path / "other.safetensors"
    write_safetensors(other, SamModules(TINY).state_dict())
    given = read_weights(other).sha256
    with pytest.raises(
        CheckpointError, match=f"sha256 {trained_on}.*have sha256 {given}; pass"
    ) as error:
        load_adapter(saved, checkpoint=other)
    assert error.value.path == saved
    assert error.value.code == "other_backbone"
    with pytest.raises(CheckpointError, match=f"sha256 {trained_on}, the given weights"):
        load_adapter(saved, checkpoint="random:1")


def test_a_file_of_another_model_is_refused_by_its_hash(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_safetensors(other, {"image_encoder.pos_embed": torch.zeros(1, 2, 2, 4)})
    with pytest.raises(CheckpointError, match="the given weights have sha256"):
        load_adapter(saved, checkpoint=other)


def test_the_right_backbone_is_accepted(tmp_path: Path) -> None:
    weights = tmp_path / "tiny.safetensors"
    write_safetensors(weights, SamModules(TINY).state_dict())
    segmenter = changed(build.sam_tiny(checkpoint=weights))
    save_adapter(tmp_path / "a.safetensors", segmenter, ModelInfo.of(segmenter))
    again, _ = load_adapter(tmp_path / "a.safetensors", checkpoint=weights)
    assert logits(again).equal(logits(segmenter))
    with pytest.raises(CheckpointError, match="trained on sam_tiny with sha256"):
        load_adapter(tmp_path / "a.safetensors")


def test_one_flipped_bit_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-5] ^= 1
    saved.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors: .*sha256"):
        load_adapter(saved)


def test_weights_of_another_adapter_are_refused(saved: Path) -> None:
    rewrite(saved, decoder={"target": "segkit.decoders.MaskDecoder", "args": {}})
    with pytest.raises(CheckpointError, match=r"do not fit this model: .*missing.*unexpected"):
        load_adapter(saved)
    rewrite(saved, decoder={"target": "segkit.decoders.QueryDecoder", "args": {"classes": 3}})
    with pytest.raises(CheckpointError, match=r"class_tokens expected \(3, 32\), found \(2, 32\)"):
        load_adapter(saved)


def test_arguments_the_class_refuses_are_reported_with_the_file(saved: Path) -> None:
    rewrite(saved, decoder={"target": "segkit.decoders.QueryDecoder", "args": {"classes": 0}})
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors: .*cannot be built: classes"):
        load_adapter(saved)
    rewrite(saved, decoder={"target": "segkit.decoders.QueryDecoder", "args": {"classes": "two"}})
    with pytest.raises(CheckpointError, match="cannot be built"):
        load_adapter(saved)


@pytest.mark.parametrize("part", ["adapter", "decoder", "prompt"])
def test_a_file_cannot_call_anything_else(saved: Path, part: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    rewrite(saved, **{part: {"target": "os.system", "args": {"command": f"touch {canary}"}}})
    with pytest.raises(CheckpointError, match=f"{part} names 'os.system', which is not a class"):
        load_adapter(saved)
    assert not canary.exists()


def test_newer_formats_are_refused(saved: Path) -> None:
    rewrite(saved, format=2, segkit_version="9.0")
    with pytest.raises(CheckpointError, match=r"needs segkit >= 9\.0"):
        load_adapter(saved)


def test_unknown_backbones_are_refused(saved: Path) -> None:
    rewrite(saved, backbone={"name": "sam_vit_x", "sha256": "0", "image_size": 64})
    with pytest.raises(CheckpointError, match=r"backbone 'sam_vit_x', which this segkit .*known:"):
        load_adapter(saved)


def test_impossible_image_sizes_are_refused(saved: Path) -> None:
    origin = build.sam_tiny().recipe.backbone
    rewrite(saved, backbone={"name": origin.name, "sha256": origin.sha256, "image_size": 65})
    with pytest.raises(CheckpointError, match="cannot be built: image_size must be a multiple"):
        load_adapter(saved)


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "sam.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no adapter file: .*no entry 'segkit'.*checkpoint="):
        load_adapter(tmp_path / "sam.safetensors")


def test_descriptions_of_another_model_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"belongs to another model.*ModelInfo\.of"):
        save_adapter(tmp_path / "a", build.sam_tiny(), ModelInfo.of(build.sam_tiny(classes=1)))
    assert not list(tmp_path.iterdir())


def test_more_labels_than_classes_are_not_written(tmp_path: Path) -> None:
    segmenter = build.sam_tiny(classes=1)
    info = ModelInfo.of(segmenter, labels={1: "liver", 2: "spleen"})
    with pytest.raises(InputError, match=r"values \[1, 2\], but the model has 1 classes"):
        save_adapter(tmp_path / "a", segmenter, info)


def test_adapters_from_elsewhere_are_not_written(tmp_path: Path) -> None:
    class Mine(Adapter):
        pass

    segmenter = build.sam_tiny(adapter=Mine)
    with pytest.raises(InputError, match="Mine cannot be written to a file"):
        save_adapter(tmp_path / "a", segmenter, ModelInfo.of(segmenter))
    assert not list(tmp_path.iterdir())


def test_load_model_reads_run_folders_files_and_names(saved: Path) -> None:
    by_folder, info = load_model(saved.parent)
    by_file, _ = load_model(str(saved))
    assert logits(by_folder).equal(logits(by_file))
    assert info.recipe.decoder.args == {"classes": 2}
    bare, info = load_model("sam_tiny")
    assert not bare.training
    assert (info.recipe, info.labels) == (bare.recipe, {})


def test_load_model_passes_weights_on(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="the given weights have sha256"):
        load_model(saved, checkpoint="random:1")
    other, _ = load_model("sam_tiny", checkpoint="random:1")
    assert other.recipe.backbone.sha256 != build.sam_tiny().recipe.backbone.sha256


def test_unknown_names_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam_tny: .*did you mean 'sam_tiny'\?"):
        load_model("sam_tny")
    with pytest.raises(CheckpointError, match=r"no such run folder.*model names: \['dynunet_3d'"):
        load_model(tmp_path / "runs")


def test_a_run_folder_without_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors: there is no such run folder"):
        load_model(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_out_of_a_run_folder_are_refused(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "adapter.safetensors").symlink_to(saved)
    with pytest.raises(CheckpointError, match="lies outside of the folder"):
        load_model(run)


def test_info_of_a_saved_file_can_be_edited_and_saved_again(saved: Path, tmp_path: Path) -> None:
    segmenter, info = load_adapter(saved)
    save_adapter(tmp_path / "b.safetensors", segmenter, replace(info, licence="MIT"))
    assert load_adapter(tmp_path / "b.safetensors")[1].licence == "MIT"
