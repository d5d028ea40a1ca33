"""I-MedSAM's files: generated in the authors' layout, compared with the formula they were made for.

`authors_masks` writes the released forward pass down on upstream's modules, from its description.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.backbones.sam_modules import SIZES, TINY, SamModules
from segkit.errors import CheckpointError, InputError
from segkit.models.conversion import convert
from segkit.models.convert_i_medsam import AT_384, resized_to
from segkit.models.files import load_adapter
from segkit.typing import Prompts

DIM, RANK, SIDE = TINY.embed_dim, 4, TINY.image_size
BOX_XYXY = (9.0, 14.0, 40.0, 50.0)
WIDTHS = (1024, 512, 256)


def randomised(modules: SamModules) -> SamModules:
    generator = torch.Generator().manual_seed(0)
    for tensor in modules.state_dict().values():
        tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return modules


def authors_state(modules: SamModules, seed: int = 3) -> dict[str, Tensor]:
    """What the released script saves for two LoRA thirds per block and one class."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.1) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    state: dict[str, Tensor] = {}
    for index in range(TINY.depth):
        for number in (2 * index, 2 * index + 1):
            state[f"w_a_{number:03d}"] = draw(RANK, DIM)
            state[f"w_b_{number:03d}"] = draw(DIM, RANK)
        state[f"w_g_{index:03d}"] = draw(1, DIM)
        block = f"image_encoder.blocks.{index}."
        state[f"{block}freq_adapter.D_fc1.weight"] = draw(4, DIM)
        state[f"{block}freq_adapter.D_fc1.bias"] = draw(4)
        state[f"{block}freq_adapter.D_fc2.weight"] = draw(DIM, 4)
        state[f"{block}freq_adapter.D_fc2.bias"] = draw(DIM)
        state[f"{block}freq_norm.weight"] = torch.ones(DIM)
        state[f"{block}freq_norm.bias"] = torch.zeros(DIM)
    kept = ("prompt_encoder.", "mask_decoder.")
    state |= {k: v.clone() for k, v in modules.state_dict().items() if k.startswith(kept)}
    inputs, (wide, middle, narrow) = TINY.out_dim // 8 + TINY.out_dim + 63, WIDTHS
    linears = {
        "0.0": (inputs, wide), "0.3": (wide, middle), "1.0": (inputs + narrow, narrow),
        "1.3": (narrow, narrow), "2.0.0": (middle, narrow + 1), "3.0.0": (narrow, narrow // 2),
        "3.0.3": (narrow // 2, 1),
    }  # fmt: skip
    for name, (before, after) in linears.items():
        state[f"mask_decoder.seg_field.seg_net.{name}.weight"] = draw(after, before)
        state[f"mask_decoder.seg_field.seg_net.{name}.bias"] = draw(after)
    norms = {"0.1": wide, "0.4": middle, "1.1": narrow, "1.4": narrow, "3.0.1": narrow // 2}
    for name, width in norms.items():
        norm = f"mask_decoder.seg_field.seg_net.{name}."
        state[norm + "weight"], state[norm + "bias"] = 1 + draw(width), draw(width)
        state[norm + "running_mean"] = draw(width)
        state[norm + "running_var"] = 1 + draw(width).abs()
        state[norm + "num_batches_tracked"] = torch.tensor(7)
    return state


def authors_encoding(modules: SamModules, state: dict[str, Tensor], image: Tensor) -> Tensor:
    encoder = modules.image_encoder
    amplitude = torch.fft.fftshift(torch.fft.fft2(255 * image[:, :1]).abs(), dim=(2, 3))
    low, high = amplitude.amin(), amplitude.amax()
    stream = encoder.patch_embed(((amplitude - low) / (high - low)).repeat(1, 3, 1, 1))
    tokens = encoder.patch_embed(image) + encoder.pos_embed
    stream = stream + encoder.pos_embed
    for index, block in enumerate(encoder.blocks):
        plain = block.attn.qkv

        def edited(x: Tensor, index: int = index, plain: torch.nn.Linear = plain) -> Tensor:
            gate = F.linear(x.mean((1, 2)), state[f"w_g_{index:03d}"])[:, None, None]
            q, v = (
                F.linear(F.linear(x, state[f"w_a_{n:03d}"]), state[f"w_b_{n:03d}"])
                for n in (2 * index, 2 * index + 1)
            )
            return plain(x) + gate * torch.cat([q, torch.zeros_like(q), v], -1)

        block.attn.qkv = torch.nn.Identity()
        block.attn.qkv.forward = edited  # type: ignore[method-assign]
        tokens = block(tokens)
        block.attn.qkv = plain
        prefix = f"image_encoder.blocks.{index}.freq_adapter."
        fc1, fc2 = (
            (state[f"{prefix}D_fc{n}.weight"], state[f"{prefix}D_fc{n}.bias"]) for n in (1, 2)
        )
        stream = F.layer_norm(stream, (DIM,), eps=1e-6)
        stream = stream + F.linear(F.gelu(F.linear(stream, *fc1)), *fc2)
        tokens = tokens + 0.5 * stream
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def authors_masks(
    modules: SamModules, state: dict[str, Tensor], image: Tensor, size: tuple[int, int]
) -> Tensor:
    """Coarse map of one image with one box: what the released code computes without chance."""
    embedding = authors_encoding(modules, state, image)
    sparse, dense = modules.prompt_encoder(None, torch.tensor([BOX_XYXY])[None], None)
    decoder, codes = modules.mask_decoder, modules.prompt_encoder.get_dense_pe()
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]
    tokens = torch.cat([tokens, sparse], dim=1)
    cells = decoder.transformer(embedding + dense, codes, tokens)[1]
    maps = decoder.output_upscaling(cells.transpose(1, 2).view_as(embedding))
    maps, codes = (
        F.interpolate(one, size=size, mode="bilinear", align_corners=False).flatten(2)[0].T
        for one in (maps, codes)
    )
    rows, cols = (torch.linspace(-1, 1, n) for n in size)
    places = torch.cartesian_prod(torch.tensor([-1.0]), rows, cols)
    angles = 2 * math.pi * places[..., None] * 2 ** torch.linspace(0, 10, 10)
    waves = torch.sin(torch.cat([angles.flatten(1), angles.flatten(1) + math.pi / 2], 1))
    x = torch.cat([maps, codes, waves, places], 1)
    for linear, norm in (("0.0", "0.1"), ("0.3", "0.4"), ("2.0.0", None)):
        prefix = "mask_decoder.seg_field.seg_net."
        x = F.linear(x, state[f"{prefix}{linear}.weight"], state[f"{prefix}{linear}.bias"])
        if norm:
            mean, var, weight, bias = (
                state[f"{prefix}{norm}.{n}"]
                for n in ("running_mean", "running_var", "weight", "bias")
            )
            x = F.relu(F.batch_norm(x, mean, var, weight, bias))
    return x[:, 0].view(size)


@pytest.fixture
def made(tmp_path: Path) -> tuple[SamModules, dict[str, Tensor], Path, Path]:
    modules = randomised(SamModules(TINY))
    state = authors_state(modules)
    torch.save({"model": state, "optimizer": {}, "epoch": 3}, source := tmp_path / "model.pth")
    torch.save(modules.state_dict(), official := tmp_path / "sam.pth")
    return modules, state, source, official


@torch.no_grad()
def test_gives_the_authors_masks(
    tmp_path: Path, made: tuple[SamModules, dict[str, Tensor], Path, Path]
) -> None:
    modules, state, source, official = made
    out = tmp_path / "adapter.safetensors"
    record = convert("i-medsam", source, out, checkpoint=official)
    assert record.tensors == len(state)
    assert set(record.filled.values()) == {"from sam.pth"}
    segmenter, _ = load_adapter(out, checkpoint=tmp_path / "adapter.backbone.safetensors")
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    x0, y0, x1, y1 = BOX_XYXY
    box = Prompts(torch.tensor([[[0, y0, x0], [0, y1, x1]]]), torch.tensor([[2, 3]]))
    features = segmenter.encode(image)
    field = segmenter.field(features, box)
    size = (32, 32)
    coarse = segmenter.decode(features, box).coarse
    expected = authors_masks(modules, state, image, size)
    torch.testing.assert_close(coarse[0, 0], expected, rtol=1e-3, atol=1e-3)
    assert expected.std() > 20 * (coarse[0, 0] - expected).abs().max()
    assert field.render((20, 30)).shape == (1, 1, 20, 30)


def test_nothing_that_was_trained_is_dropped(
    tmp_path: Path, made: tuple[SamModules, dict[str, Tensor], Path, Path]
) -> None:
    _, state, source, official = made
    out = tmp_path / "adapter.safetensors"
    convert("i-medsam", source, out, checkpoint=official)
    segmenter, _ = load_adapter(out, checkpoint=tmp_path / "adapter.backbone.safetensors")
    values = [tensor.flatten() for tensor in segmenter.state_dict().values()]
    sums = {round(float(value.double().sum()), 6) for value in values}
    dropped = ("freq_norm", "output_hypernetworks", "iou_prediction_head")
    for key, value in state.items():
        if not any(part in key for part in dropped):
            assert round(float(value.double().sum()), 6) in sums, key


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        ({"remove": "w_a_003"}, r"missing: .*layers\.blocks:1:attn:qkv\.lora_A\.v\.weight"),
        ({"add": "w_a_006"}, r"unexpected: .*blocks:3:attn:qkv\.lora_A\.q"),
        ({"add": "w_k_000"}, r"unexpected: w_k_000"),
        ({"remove": "mask_decoder.iou_token.weight"}, r"missing: mask_decoder\.iou_token"),
        ({"remove": "image_encoder.blocks.0.freq_norm.bias"}, r"missing: .*blocks\.0\.freq_norm"),
        ({"set": "image_encoder.blocks.0.freq_norm.bias"}, r"freq_norm\.bias was trained, which"),
        ({"set": "mask_decoder.seg_field.seg_net.2.1.0.bias"}, r"heads for 2 classes"),
    ],
)
def test_every_key_is_accounted_for(tmp_path: Path, edit: dict[str, str], match: str) -> None:
    modules = randomised(SamModules(TINY))
    state = authors_state(modules)
    state.pop(edit.get("remove", ""), None)
    if "add" in edit:
        state[edit["add"]] = torch.ones(RANK, DIM)
    if "set" in edit:
        state[edit["set"]] = torch.ones(DIM)
    torch.save(state, tmp_path / "x.pth")
    torch.save(modules.state_dict(), tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=match):
        convert(
            "i-medsam", tmp_path / "x.pth", tmp_path / "a.safetensors",
            checkpoint=tmp_path / "sam.pth",
        )  # fmt: skip
    assert not (tmp_path / "a.safetensors").exists()


def test_needs_the_frozen_encoder(
    tmp_path: Path, made: tuple[SamModules, dict[str, Tensor], Path, Path]
) -> None:
    with pytest.raises(InputError, match="lack the frozen encoder; pass --checkpoint"):
        convert("i-medsam", made[2], tmp_path / "a.safetensors")


def test_position_tables_are_resized_as_the_authors_do() -> None:
    state = randomised(SamModules(TINY)).state_dict()
    small = replace(TINY, image_size=40)
    resized = resized_to(state, small)
    expected = SamModules(small).state_dict()
    assert {k: v.shape for k, v in resized.items()} == {k: v.shape for k, v in expected.items()}
    table = state["image_encoder.blocks.1.attn.rel_pos_h"]
    linear = F.interpolate(table.T[None], size=9, mode="linear")[0].T
    torch.testing.assert_close(resized["image_encoder.blocks.1.attn.rel_pos_h"], linear)
    windowed = "image_encoder.blocks.0.attn.rel_pos_h"
    assert resized[windowed].equal(state[windowed])
    assert {SIZES[name].image_size for name in AT_384.values()} == {384}
