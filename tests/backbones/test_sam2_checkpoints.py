"""Names of SAM 2 files: official, ours and those of transformers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segkit.backbones.checkpoints import write_safetensors
from segkit.backbones.sam2_checkpoints import (
    from_hub,
    from_official,
    load_sam2,
    read_sam2,
    to_hub,
    to_official,
)
from segkit.backbones.sam2_modules import SAM2_SIZES, Sam2Modules
from segkit.errors import CheckpointError
from segkit.models.build_sam2 import memory_sizes
from segkit.models.convert_sam2 import sam2_state

# keys of the official files, of transformers' `Sam2VideoModel`, and parameters (whole, image half)
GOLDEN = {
    "sam2_tiny": (471, 469, 38_962_498, 31_440_721),
    "sam2_0_tiny": (468, 466, 38_945_986, 31_440_721),
    "sam2_small": (519, 517, 46_060_354, 38_538_577),
    "sam2_0_small": (516, 514, 46_043_842, 38_538_577),
    "sam2_base_plus": (615, 613, 80_850_178, 73_328_401),
    "sam2_0_base_plus": (612, 610, 80_833_666, 73_328_401),
    "sam2_large": (903, 901, 224_446_642, 216_924_865),
    "sam2_0_large": (900, 898, 224_430_130, 216_924_865),
}
_BUFFER = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


def whole() -> tuple[Sam2Modules, nn.Module, dict[str, Tensor]]:
    """Both halves of the test model and their official state dict."""
    from segkit.memory.modules import Sam2Memory

    torch.manual_seed(0)
    sizes = SAM2_SIZES["sam2_test"]
    modules, memory = Sam2Modules(sizes), Sam2Memory(memory_sizes(sizes))
    return modules, memory, {**to_official(modules.state_dict()), **memory.state_dict()}


@pytest.mark.parametrize("name", GOLDEN)
def test_keys_and_parameters_are_those_of_the_official_models(name: str) -> None:
    official, hub, parameters, image = GOLDEN[name]
    state = sam2_state(SAM2_SIZES[name])
    assert len(state) == official
    assert len(to_hub(state)) == hub
    assert sum(v.numel() for k, v in state.items() if k != _BUFFER) == parameters
    half = from_official(state)
    matrix = half["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    assert sum(v.numel() for v in half.values()) - matrix.numel() == image


@pytest.mark.parametrize(
    ("official", "hub"),
    [
        ("image_encoder.trunk.pos_embed_window", "vision_encoder.backbone.pos_embed_window"),
        (
            "image_encoder.trunk.patch_embed.proj.weight",
            "vision_encoder.backbone.patch_embed.projection.weight",
        ),
        (
            "image_encoder.trunk.blocks.10.attn.proj.bias",
            "vision_encoder.backbone.blocks.10.attn.proj.bias",
        ),
        (
            "image_encoder.trunk.blocks.1.mlp.layers.1.bias",
            "vision_encoder.backbone.blocks.1.mlp.proj_out.bias",
        ),
        ("image_encoder.neck.convs.3.conv.bias", "vision_encoder.neck.convs.3.bias"),
        (
            "sam_prompt_encoder.mask_downscaling.4.bias",
            "prompt_encoder.mask_embed.layer_norm2.bias",
        ),
        (
            "sam_mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.weight",
            "mask_decoder.transformer.layers.1.cross_attn_image_to_token.o_proj.weight",
        ),
        (
            "sam_mask_decoder.output_hypernetworks_mlps.2.layers.1.weight",
            "mask_decoder.output_hypernetworks_mlps.2.layers.0.weight",
        ),
        ("sam_mask_decoder.output_upscaling.3.bias", "mask_decoder.upscale_conv2.bias"),
        (
            "memory_attention.layers.0.cross_attn_image.out_proj.bias",
            "memory_attention.layers.0.cross_attn_image.o_proj.bias",
        ),
        ("memory_attention.layers.1.linear1.bias", "memory_attention.layers.1.linear1.bias"),
        ("memory_encoder.out_proj.bias", "memory_encoder.projection.bias"),
        ("memory_encoder.fuser.layers.1.gamma", "memory_encoder.memory_fuser.layers.1.scale"),
        (
            "memory_encoder.mask_downsampler.encoder.10.bias",
            "memory_encoder.mask_downsampler.layers.3.layer_norm.bias",
        ),
        (
            "memory_encoder.mask_downsampler.encoder.12.bias",
            "memory_encoder.mask_downsampler.final_conv.bias",
        ),
        ("obj_ptr_proj.layers.2.bias", "object_pointer_proj.proj_out.bias"),
        ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ],
)
def test_hub_names(official: str, hub: str) -> None:
    _, _, state = whole()
    marked = {**state, official: torch.full((1,), 7.0)}
    assert to_hub(marked)[hub].tolist() == [7.0]
    assert from_hub(to_hub(marked), "file")[official].tolist() == [7.0]


def test_names_survive_the_way_to_the_hub_and_back() -> None:
    _, _, state = whole()
    back = from_hub(to_hub(state), "file")
    assert back.keys() == state.keys()
    assert all(back[name].equal(tensor) for name, tensor in state.items())


def saved(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"model": state}, path)
    return path


@pytest.mark.parametrize("layout", ["official", "hub folder"])
def test_both_halves_are_loaded(layout: str, tmp_path: Path) -> None:
    modules, memory, state = whole()
    if layout == "official":
        path = saved(state, tmp_path / "sam2.pt")
    else:
        path = tmp_path
        tensors = {name: tensor.clone() for name, tensor in to_hub(state).items()}
        write_safetensors(tmp_path / "model.safetensors", tensors)
    for parameter in (*modules.parameters(), *memory.parameters()):
        parameter.data.zero_()
    load_sam2(modules, memory, path)
    found = {**to_official(modules.state_dict()), **memory.state_dict()}
    assert all(found[name].equal(tensor) for name, tensor in state.items())


@pytest.mark.parametrize("kept", [0, 1])
def test_one_copy_of_the_position_code_is_enough(kept: int) -> None:
    _, _, state = whole()
    hub = to_hub(state)
    copies = [name for name in hub if name.endswith("positional_embedding")]
    del hub[copies[1 - kept]]
    assert from_hub(hub, "file")[_BUFFER].equal(state[_BUFFER])


def test_two_different_position_codes_are_refused(tmp_path: Path) -> None:
    _, _, state = whole()
    hub = {name: tensor.clone() for name, tensor in to_hub(state).items()}
    hub["shared_image_embedding.positional_embedding"] += 1
    write_safetensors(path := tmp_path / "model.safetensors", hub)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: holds two different position"):
        read_sam2(tmp_path)
    assert path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("maskmem_tpos_enc"), "1 missing: maskmem_tpos_enc"),
        (lambda s: s.pop("image_encoder.trunk.pos_embed"), "missing: image_encoder.trunk.pos_emb"),
        (lambda s: s.update(more=torch.zeros(1)), "1 unexpected: more"),
        (
            lambda s: s.update({"sam_mask_decoder.conv_s0.bias": torch.zeros(5)}),
            r"1 of another shape: sam_mask_decoder.conv_s0.bias expected \(4,\), found \(5,\)",
        ),
    ],
)
def test_every_key_is_accounted_for(change: object, message: str, tmp_path: Path) -> None:
    modules, memory, state = whole()
    before = {name: tensor.clone() for name, tensor in modules.state_dict().items()}
    change(state)
    with pytest.raises(CheckpointError, match=message):
        load_sam2(modules, memory, saved(state, tmp_path / "sam2.pt"))
    assert all(before[name].equal(tensor) for name, tensor in modules.state_dict().items())


def test_an_image_half_serves_images_but_no_tracker(tmp_path: Path) -> None:
    modules, memory, state = whole()
    image = {name: tensor for name, tensor in state.items() if name not in memory.state_dict()}
    path = saved(image, tmp_path / "image.pt")
    load_sam2(modules, memory.to("meta"), path)
    _, memory, _ = whole()
    with pytest.raises(CheckpointError, match=r"missing: .*memory_attention"):
        load_sam2(modules, memory, path)
