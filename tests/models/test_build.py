"""Builders: weights, sizes, what each option does."""

import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from segkit.adapters.base import Adapter
from segkit.backbones.checkpoints import write_safetensors
from segkit.backbones.sam2_modules import SAM2_SIZES
from segkit.backbones.sam_modules import SIZES, TINY, SamModules
from segkit.decoders import MaskDecoder, QueryDecoder
from segkit.errors import CheckpointError
from segkit.models import build, sources
from segkit.prompts import SamPromptEncoder
from segkit.typing import Prompts


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights in the official layout."""
    torch.manual_seed(3)
    modules = SamModules(TINY)
    torch.nn.init.normal_(modules.image_encoder.pos_embed)
    write_safetensors(tmp_path / "tiny.safetensors", modules.state_dict())
    return tmp_path / "tiny.safetensors"


def test_there_is_a_builder_for_each_size() -> None:
    assert build.BUILDERS.keys() >= {*SIZES, *SAM2_SIZES}
    assert all(getattr(build, name) is builder for name, builder in build.BUILDERS.items())


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = build.sam_tiny(checkpoint="random")
    torch.manual_seed(2)
    again, other = build.sam_tiny(), build.sam_tiny(checkpoint="random:1")
    state = again.state_dict()
    assert all(state[name].equal(value) for name, value in first.state_dict().items())
    assert first.recipe == again.recipe
    assert other.recipe.backbone.sha256 != first.recipe.backbone.sha256
    image = torch.rand(1, 3, 64, 64)
    assert not first.encode(image).levels[0].allclose(other.encode(image).levels[0], atol=0.1)


def test_random_model_looks_at_image_and_prompt() -> None:
    segmenter = build.sam_tiny().eval()
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[0.0, 8.0, 8.0]], [[0.0, 50.0, 50.0]]])
    labels = torch.ones(2, 1, dtype=torch.long)
    with torch.no_grad():
        features = segmenter.encode(image)
        same = torch.tensor([0, 0])
        logits = segmenter.decode(features, Prompts(points, labels, image_index=same)).logits
        other = segmenter.decode(features, Prompts(points, labels)).logits
    assert torch.isfinite(logits).all()
    assert (logits[0] - logits[1]).abs().max() > 0.01
    assert (logits[1] - other[1]).abs().max() > 0.01


def test_a_file_is_loaded_whole_and_hashed(weights: Path) -> None:
    segmenter = build.sam_tiny(checkpoint=weights)
    torch.manual_seed(3)
    modules = SamModules(TINY)
    torch.nn.init.normal_(modules.image_encoder.pos_embed)
    parts = {
        segmenter.backbone.encoder: modules.image_encoder,
        segmenter.prompt_encoder.module: modules.prompt_encoder,
        segmenter.decoder.module: modules.mask_decoder,
    }
    for ours, official in parts.items():
        for name, value in official.state_dict().items():
            assert ours.state_dict()[name].equal(value), name
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert segmenter.recipe.backbone.sha256 == digest


def test_classes_choose_the_automatic_decoder() -> None:
    segmenter = build.sam_tiny(classes=3)
    assert segmenter.is_automatic
    assert segmenter.decoder.classes == 3
    assert segmenter.recipe.decoder.args == {"classes": 3}
    assert not build.sam_tiny().is_automatic


def test_recipe_names_every_part() -> None:
    recipe = build.sam_tiny(
        adapter=partial(Adapter),
        decoder=MaskDecoder,
        prompt_encoder=partial(SamPromptEncoder, trained="all"),
        trainable="decoder",
        image_size=96,
    ).recipe
    assert recipe.adapter.target == "segkit.adapters.Adapter"
    assert recipe.decoder.target == "segkit.decoders.MaskDecoder"
    assert recipe.prompt.args == {"trained": "all"}
    assert (recipe.trainable, recipe.backbone.image_size) == ("decoder", 96)


def test_image_size_reaches_the_adapter() -> None:
    sizes = []

    def adapter(spec: object) -> Adapter:
        sizes.append(spec.image_size)
        return Adapter(spec)

    segmenter = build.sam_tiny(adapter=adapter, image_size=96)
    assert sizes == [96]
    assert segmenter.encode(torch.rand(1, 3, 96, 96)).levels[-1].shape[2:] == (12, 12)


def test_checkpointing_changes_no_gradient() -> None:
    image, gradients = torch.rand(1, 3, 64, 64), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        segmenter = build.sam_tiny(
            classes=1, trainable="all", checkpointing=checkpointing, decoder=QueryDecoder
        )
        segmenter(image).logits.sum().backward()
        gradients.append(segmenter.backbone.encoder.patch_embed.proj.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_large_models_need_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(build, "SamModules")  # refused before anything large is made
    with pytest.raises(CheckpointError, match=f"{name} needs weights, got checkpoint=None; pass"):
        build.BUILDERS[name]()


def test_package_weights_are_looked_up_and_verified(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "files", lambda _: tmp_path)
    builder = build.SamBuilder(TINY, weights="package")
    with pytest.raises(CheckpointError, match="lacks the weights of 'sam_tiny'; install"):
        builder()
    (tmp_path / "weights").mkdir()
    weights.rename(tmp_path / "weights/sam_tiny.safetensors")
    card = tmp_path / "weights/sam_tiny.json"
    digest = hashlib.sha256((tmp_path / "weights/sam_tiny.safetensors").read_bytes()).hexdigest()
    card.write_text(json.dumps({"sha256": digest}))
    assert builder().recipe.backbone.sha256 == digest
    card.write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match=f"sha256 is {digest}, expected {'0' * 64}"):
        builder()


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        build.sam_tiny(checkpoint=tmp_path / "none.pth")


@pytest.mark.parametrize("size", [4, 65])
def test_image_size_must_fit_the_patches(size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of the patch size 8, got {size}"):
        build.sam_tiny(image_size=size)
