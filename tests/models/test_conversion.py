import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.adapters import Adapter, HighFrequency
from segkit.backbones import SamBackbone, sam_spec
from segkit.backbones.checkpoints import file_sha256, load_sam, read_state_dict, read_weights
from segkit.backbones.sam_modules import TINY, SamModules
from segkit.errors import CheckpointError, InputError
from segkit.models.conversion import convert
from segkit.models.files import load_adapter
from segkit.typing import Grid

AUTHORS_NAMES = {
    "up.0": "shared_mlp",
    "embedding.0": "embedding_generator",
    "light.0": "lightweight_mlp_0.0",
    "light.1": "lightweight_mlp_1.0",
    "light.2": "lightweight_mlp_2.0",
    "patches.0": "prompt_generator.proj",
}


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return module


def sam() -> SamModules:
    return randomised(SamModules(TINY))  # type: ignore[return-value]


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def authors_state(modules: SamModules, generator: HighFrequency) -> dict[str, Tensor]:
    """Lay weights out as SAM-Adapter's training script saves them."""
    state = {k: v for k, v in modules.state_dict().items() if not k.startswith("prompt_encoder.")}
    prompts = modules.prompt_encoder
    state["no_mask_embed.weight"] = prompts.no_mask_embed.weight.detach()
    state["pe_layer.positional_encoding_gaussian_matrix"] = (
        prompts.pe_layer.positional_encoding_gaussian_matrix
    )
    for key, value in generator.state_dict().items():
        layer, _, kind = key.rpartition(".")
        state[f"image_encoder.prompt_generator.{AUTHORS_NAMES[layer]}.{kind}"] = value
    return state


def authors_forward(modules: SamModules, generator: HighFrequency, image: Tensor) -> Tensor:
    """SAM-Adapter's forward pass on upstream's modules: logits of mask token 0, not resized."""
    encoder = modules.image_encoder
    pixels = (image * 255 - modules.pixel_mean) / modules.pixel_std
    spectrum = torch.fft.fftshift(torch.fft.fft2(pixels, norm="forward"), dim=(-2, -1))
    spectrum[..., 32 - 16 : 32 + 16, 32 - 16 : 32 + 16] = 0
    spectrum = torch.fft.ifftshift(spectrum, dim=(-2, -1))
    high = torch.fft.ifft2(spectrum, norm="forward").real.abs()
    x = encoder.patch_embed(pixels)
    n, h, w, dim = x.shape
    embedding = generator.embedding[0](x.reshape(n, dim, h * w).transpose(1, 2))
    features = embedding + generator.patches[0](high).flatten(2).transpose(1, 2)
    x = x + encoder.pos_embed
    for block, light in zip(encoder.blocks, generator.light, strict=True):
        x = block(x + generator.up[0](F.gelu(light(features))).view(n, h, w, dim))
    embedded = encoder.neck(x.permute(0, 3, 1, 2))
    no_mask = modules.prompt_encoder.no_mask_embed.weight
    rows = [
        modules.mask_decoder.predict_masks(
            one[None],
            modules.prompt_encoder.get_dense_pe(),
            torch.zeros(1, 0, TINY.out_dim),
            no_mask.view(1, -1, 1, 1).expand(1, -1, h, w),
        )[0][:, :1]
        for one in embedded
    ]
    return torch.cat(rows).detach()


def authors_model() -> tuple[SamModules, HighFrequency]:
    generator = HighFrequency(sam_spec(TINY), compat="authors")
    return sam(), randomised(generator, 5)  # type: ignore[return-value]


@pytest.mark.parametrize("wrap", ["plain", "data parallel", "training checkpoint"])
def test_sam_is_converted_value_for_value(tmp_path: Path, wrap: str) -> None:
    expected = sam().state_dict()
    state: dict[str, object] = dict(expected)
    if wrap == "data parallel":
        state = {f"module.{key}": value for key, value in expected.items()}
    if wrap == "training checkpoint":
        state = {"model": state, "epoch": 3}
    source = saved(state, tmp_path / "x.pth")
    record = convert("sam", source, out := tmp_path / "x.safetensors")
    assert (record.backbone, record.outputs) == ("sam_tiny", {"weights": str(out)})
    weights = read_weights(out)
    torch.testing.assert_close(weights.tensors, dict(expected), rtol=0, atol=0)
    origin = json.loads(weights.metadata["segkit_convert"])
    assert origin == {"family": "sam", "source": "x.pth", "sha256": file_sha256(source)}


def test_medsam_sees_unscaled_pixels(tmp_path: Path) -> None:
    modules = sam()
    source = saved(modules.state_dict(), tmp_path / "x.pth")
    convert("medsam", source, out := tmp_path / "x.safetensors")
    load_sam(converted := SamModules(TINY), out)
    backbone = SamBackbone(converted.image_encoder, TINY, Adapter)
    found = backbone(images(), Grid((1, 64, 64))).levels[0]
    expected = modules.image_encoder(images()).detach()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    changed = [k for k, v in read_state_dict(out).items() if not v.equal(modules.state_dict()[k])]
    assert changed == [f"image_encoder.patch_embed.proj.{name}" for name in ("bias", "weight")]


def test_sam_adapter_gives_the_authors_masks(tmp_path: Path) -> None:
    modules, generator = authors_model()
    source = saved(authors_state(modules, generator), tmp_path / "model_epoch_best.pth")
    record = convert("sam-adapter", source, out := tmp_path / "adapter.safetensors")
    base = tmp_path / "adapter.backbone.safetensors"
    assert record.outputs == {"adapter": str(out), "backbone": str(base)}
    segmenter, info = load_adapter(out, checkpoint=base)
    assert info.recipe.adapter.args == {"compat": "authors"}
    with torch.no_grad():
        found = segmenter(images()).logits
    expected = authors_forward(modules, generator, images())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_sam_adapter_differs_from_sam_and_from_the_default_form(tmp_path: Path) -> None:
    modules, generator = authors_model()
    expected = authors_forward(modules, generator, images())
    silent = HighFrequency(sam_spec(TINY))
    plain = authors_forward(modules, silent, images())
    assert (expected - plain).abs().max() > 0.01 * expected.abs().max()
    backbones = []
    for compat in (None, "authors"):
        backbone = SamBackbone(
            modules.image_encoder, TINY, lambda spec, c=compat: HighFrequency(spec, compat=c)
        )
        backbone.adapter.load_state_dict(generator.state_dict())
        backbones.append(backbone(images(), Grid((1, 64, 64))).levels[0])
    assert not torch.allclose(*backbones, rtol=1e-2)


def test_sam_adapter_records_what_it_fills(tmp_path: Path) -> None:
    modules, generator = authors_model()
    source = saved(authors_state(modules, generator), tmp_path / "x.pth")
    record = convert("sam-adapter", source, tmp_path / "a.safetensors")
    kinds = {key.split(".")[1] for key in record.filled}
    assert kinds == {"point_embeddings", "not_a_point_embed", "mask_downscaling"}
    assert set(record.filled.values()) == {"zeros; not used without prompts"}


def test_sam_adapter_takes_prompt_weights_from_the_given_sam(tmp_path: Path) -> None:
    modules, generator = authors_model()
    source = saved(authors_state(modules, generator), tmp_path / "x.pth")
    official = saved(modules.state_dict(), tmp_path / "sam.pth")
    record = convert("sam-adapter", source, tmp_path / "a.safetensors", checkpoint=official)
    assert set(record.filled.values()) == {"from sam.pth"}
    base = read_state_dict(tmp_path / "a.backbone.safetensors")
    torch.testing.assert_close(base, dict(modules.state_dict()), rtol=0, atol=0)


def test_sam_adapter_on_another_sam_is_refused(tmp_path: Path) -> None:
    modules, generator = authors_model()
    source = saved(authors_state(modules, generator), tmp_path / "x.pth")
    other = saved(randomised(SamModules(TINY), 9).state_dict(), tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=r"frozen tensors differ from .*sam\.pth"):
        convert("sam-adapter", source, tmp_path / "a.safetensors", checkpoint=other)
    assert {path.name for path in tmp_path.iterdir()} == {"x.pth", "sam.pth"}


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        ({"remove": "no_mask_embed.weight"}, r"1 missing: prompt_encoder\.no_mask_embed\.weight"),
        ({"remove": "image_encoder.pos_embed"}, r"1 missing: image_encoder\.pos_embed"),
        ({"add": "encode_head.weight"}, r"1 unexpected: encode_head\.weight"),
        ({"remove": "image_encoder.prompt_generator.shared_mlp.weight"}, r"missing: up\.0\.weight"),
        ({"add": "image_encoder.prompt_generator.extra.weight"}, r"unexpected: extra\.weight"),
    ],
)
def test_sam_adapter_accounts_for_every_key(
    tmp_path: Path, edit: dict[str, str], match: str
) -> None:
    state = authors_state(*authors_model())
    state.pop(edit.get("remove", ""), None)
    if "add" in edit:
        state[edit["add"]] = torch.ones(2)
    with pytest.raises(CheckpointError, match=match):
        convert("sam-adapter", saved(state, tmp_path / "x.pth"), tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_another_size_is_reported_against_the_nearest(tmp_path: Path) -> None:
    state = dict(sam().state_dict())
    state["image_encoder.pos_embed"] = torch.ones(1, 4, 4, 32)
    source = saved(state, tmp_path / "x.pth")
    match = r"not those of 'sam' on sam_tiny: 1 of another shape: .*pos_embed expected \(1, 8, 8"
    with pytest.raises(CheckpointError, match=match):
        convert("sam", source, tmp_path / "x.safetensors")


def test_every_differing_key_is_reported(tmp_path: Path) -> None:
    state = {k: v for k, v in sam().state_dict().items() if not k.startswith("mask_decoder.")}
    gone = set(sam().state_dict()) - set(state)
    state |= {f"extra.{index}": torch.ones(1) for index in range(20)}
    source = saved(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as raised:
        convert("sam", source, tmp_path / "x.safetensors", backbone="sam_tiny")
    named = set(raised.value.cause.replace(";", ",").replace(": ", ", ").split(", "))
    assert gone | {f"extra.{index}" for index in range(20)} <= named


def test_the_named_backbone_is_binding(tmp_path: Path) -> None:
    source = saved(sam().state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"on sam_vit_b: .* missing"):
        convert("sam", source, tmp_path / "x.safetensors", backbone="sam_vit_b")


@pytest.mark.parametrize(
    ("family", "backbone", "out", "match"),
    [
        (
            "sam-3",
            None,
            "x.safetensors",
            r"cannot convert the family 'sam-3'; did you mean 'sam'\? available: \['3dsam-adapter'",
        ),
        ("sam", "sam_vitb", "x.safetensors", "no backbone 'sam_vitb'; did you mean 'sam_vit_b'"),
        ("sam", None, "x.pth", r"must be a \.safetensors file"),
        ("sam", None, "none/x.safetensors", r"in an existing folder"),
    ],
)
def test_wrong_requests_are_refused(
    tmp_path: Path, family: str, backbone: str | None, out: str, match: str
) -> None:
    source = saved(sam().state_dict(), tmp_path / "x.pth")
    with pytest.raises(InputError, match=match):
        convert(family, source, tmp_path / out, backbone=backbone)
