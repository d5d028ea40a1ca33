"""3DSAM-adapter files: made in the authors' layout, read back, compared with their source."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from segkit.backbones.sam3d_modules import LIFT_SIZES
from segkit.errors import CheckpointError, InputError
from segkit.models.conversion import convert
from segkit.models.convert_3dsam_adapter import RELEASED, released_model
from segkit.models.files import load_adapter
from segkit.models.methods import describe
from segkit.models.segmenter import Segmenter
from segkit.typing import Grid, Prompts

SIZES = LIFT_SIZES["sam3d_tiny"]
CLICK = Prompts(torch.tensor([[[4.0, 20.0, 9.0], [6.0, 8.0, 25.0]]]), torch.tensor([[1, 1]]))


def randomised(model: Segmenter) -> Segmenter:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def turned(value: Tensor) -> Tensor:
    """Kernels in the released order (height, width, depth)."""
    return value.permute(0, 1, 3, 4, 2).contiguous() if value.ndim == 5 else value.clone()


def authors_file(model: Segmenter) -> dict[str, object]:
    """What the released code saves, written down by hand from the key table of its files."""
    frozen, lift = model.backbone.encoder.state_dict(), model.backbone.lift.state_dict()
    encoder = {key: value.clone() for key, value in frozen.items()}
    encoder["slice_embed.weight"] = turned(lift["slice_embed.weight"])
    encoder["slice_embed.bias"] = lift["slice_embed.bias"]
    encoder["depth_embed"] = lift["depth_embed"]
    for i in range(SIZES.sam.depth):
        if i % 2 == 0:
            encoder[f"blocks.{i}.attn_mask"] = torch.zeros(2, 3, 3)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            encoder[f"blocks.{i}.{name}"] = lift[f"blocks.{i}.{name}"]
        encoder[f"blocks.{i}.attn.rel_pos_d"] = lift[f"blocks.{i}.rel_pos_d"]
        encoder[f"blocks.{i}.attn.lr"] = torch.tensor(1.0)
        layer = model.backbone.adapter.layers[i].state_dict()
        for ours, theirs in (("down", "linear1"), ("conv", "conv"), ("up", "linear2")):
            for kind in ("weight", "bias"):
                encoder[f"blocks.{i}.adapter.{theirs}.{kind}"] = turned(layer[f"{ours}.{kind}"])
    for key, value in lift.items():
        if key.startswith("necks."):
            encoder[key.replace("necks", "neck_3d")] = turned(value)
    decoder = {}
    for key, value in model.decoder.state_dict().items():
        part, index, layer = key.split(".")[0], key.split(".")[1], key.split(".")[-2]
        name = f"mlahead.head{int(index) + 2}.{layer}" if part == "heads" else f"cls.{layer}"
        decoder[f"{name}.weight"] = turned(value)
    points = {
        f"transformer.{key}": value.clone()
        for key, value in model.prompt_encoder.state_dict().items()
    } | {"positional_encoding_gaussian_matrix": torch.randn(3, 16)}
    noise = {key: torch.randn_like(value) for key, value in points.items()}
    return {
        "epoch": 3,
        "best_val_loss": np.float32(0.25),
        "encoder_dict": encoder,
        "feature_dict": [noise, noise, noise, points],
        "decoder_dict": decoder,
        "encoder_opt": {"state": {}, "param_groups": []},
    }


def released(**options: object) -> Segmenter:
    grey = RELEASED["kits"].grey
    return randomised(released_model(SIZES, checkpoint="random", grey=grey, **options)).eval()


def save(folder: Path, content: object, name: str = "kits21.pth.tar") -> Path:
    torch.save(content, folder / name)
    return folder / name


@torch.no_grad()
def test_round_trip(tmp_path: Path) -> None:
    model = released()
    source = save(tmp_path, authors_file(model))
    record = convert("3dsam-adapter", source, tmp_path / "kidney.safetensors")
    assert record.backbone == "sam3d_tiny"
    found, info = load_adapter(record.outputs["adapter"], checkpoint=record.outputs["backbone"])
    assert info.input.patch == (64, 64, 64)
    assert info.input.spacing_mm == (1.0, 1.0, 1.0)
    assert info.input.intensity.windows == ((-54.0, 247.0),)
    assert info.recipe.backbone.options["compat"] == "authors"
    image, grid = torch.rand(8, 3, 32, 32), Grid((8, 32, 32))
    expected = model.decode(model.encode(image, grid), CLICK).logits
    torch.testing.assert_close(found.decode(found.encode(image, grid), CLICK).logits, expected)


@torch.no_grad()
def test_automatic_files_lack_the_point_encoder(tmp_path: Path) -> None:
    model = released(is_automatic=True)
    with torch.no_grad():
        content = authors_file(released()) | {"decoder_dict": {}}
    fresh = authors_file_of_automatic(model, content)
    record = convert("3dsam-adapter", save(tmp_path, fresh), tmp_path / "kidney.safetensors")
    found, info = load_adapter(record.outputs["adapter"], checkpoint=record.outputs["backbone"])
    assert found.is_automatic
    assert info.input.patch == (128, 128, 128)
    assert found.spec.patch_size == 2 * SIZES.stride


def authors_file_of_automatic(model: Segmenter, content: dict[str, object]) -> dict[str, object]:
    decoder = {}
    for key, value in model.decoder.state_dict().items():
        part, index, layer = key.split(".")[0], key.split(".")[1], key.split(".")[-2]
        name = f"mlahead.head{int(index) + 2}.{layer}" if part == "heads" else f"cls.{layer}"
        decoder[f"{name}.weight"] = turned(value)
    content["decoder_dict"] = decoder
    del content["feature_dict"]
    return content


@torch.no_grad()
def test_a_scale_of_relative_positions_is_folded_in(tmp_path: Path) -> None:
    model = released()
    content = authors_file(model)
    encoder = content["encoder_dict"]
    for i in range(SIZES.sam.depth):
        encoder[f"blocks.{i}.attn.lr"] = torch.tensor(0.5)
        for axis in "hwd":
            encoder[f"blocks.{i}.attn.rel_pos_{axis}"] = (
                2 * encoder[f"blocks.{i}.attn.rel_pos_{axis}"]
            )
    record = convert("3dsam-adapter", save(tmp_path, content), tmp_path / "a.safetensors")
    found, _ = load_adapter(record.outputs["adapter"], checkpoint=record.outputs["backbone"])
    image, grid = torch.rand(8, 3, 32, 32), Grid((8, 32, 32))
    expected = model.encode(image, grid).levels
    torch.testing.assert_close(found.encode(image, grid).levels, expected)


def test_refusals(tmp_path: Path) -> None:
    content, out = authors_file(released()), tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="does not say which data it was trained on"):
        convert("3dsam-adapter", save(tmp_path, content, "last.pth.tar"), out)
    with pytest.raises(CheckpointError, match=r"lacks the entries \['encoder_dict'"):
        convert("3dsam-adapter", save(tmp_path, {"decoder_dict": {}}), out)
    short = content | {"feature_dict": [{}]}
    with pytest.raises(CheckpointError, match="must be a list of 4 state dicts"):
        convert("3dsam-adapter", save(tmp_path, short), out)
    broken = content | {"encoder_dict": {**content["encoder_dict"], "extra": torch.zeros(1)}}
    with pytest.raises(CheckpointError, match="1 unexpected: extra"):
        convert("3dsam-adapter", save(tmp_path, broken), out)
    decoder = dict(content["decoder_dict"])
    decoder["cls.0.weight"] = torch.full_like(decoder["cls.0.weight"], float("nan"))
    with pytest.raises(CheckpointError, match="of the decoder hold NaN"):
        convert("3dsam-adapter", save(tmp_path, content | {"decoder_dict": decoder}), out)
    del decoder["cls.0.weight"]
    with pytest.raises(CheckpointError, match=r"cls\.0\.weight"):
        convert("3dsam-adapter", save(tmp_path, content | {"decoder_dict": decoder}), out)


def test_parameter_counts() -> None:
    released_form = describe("3dsam-adapter", compat="authors").parameters
    assert (released_form.total, released_form.trainable) == (123_801_484, 34_954_880)
    rows = dict(released_form.parts)
    assert rows["encoder"] + rows["constant_scales"] == 104_056_588 - 15_209_984
    assert {name: rows[name] for name in ROWS} == ROWS
    assert 4 * rows["prompt_encoder"] == 12_656_640
    assert rows["unused_prompt_encoders"] == 3 * rows["prompt_encoder"]
    sound = describe("3dsam-adapter").parameters
    assert sound.trainable == 25_462_912
    assert sound.trainable_parts["encoder"] == 0


ROWS = {
    "adapter": 7_220_736,
    "neck_3d": 7_868_416,
    "norms": 36_864,
    "rel_pos_d": 46_336,
    "slice_embedding": 13_056,
    "depth_embedding": 24_576,
    "prompt_encoder": 3_164_160,
    "decoder": 7_088_256,
}
