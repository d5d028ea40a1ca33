"""The released DVPT classifier against its formula, and its files."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.errors import CheckpointError
from segkit.models.conversion import convert
from segkit.models.dvpt_classifier import load_dvpt

WIDTH, DEPTH, PROMPTS, PATCH, SIDE, CLASSES = 128, 6, 4, 8, 24, 3


def authors_state(seed: int = 0) -> dict[str, Tensor]:
    """A whole model as the released training script saves it."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    state = {
        "encoder.class_embedding": draw(WIDTH),
        "encoder.positional_embedding": draw((SIDE // PATCH) ** 2 + 1, WIDTH),
        "encoder.proj": draw(WIDTH, 16),
        "encoder.prompt_positional_embedding": draw(PROMPTS, WIDTH),
        "encoder.prompt_token": draw(1, PROMPTS, WIDTH),
        "encoder.conv1.weight": draw(WIDTH, 3, PATCH, PATCH),
        "fc_head.weight": draw(CLASSES, 16),
    }
    for norm in ("ln_pre", "ln_post"):
        state |= {f"encoder.{norm}.weight": 1 + draw(WIDTH), f"encoder.{norm}.bias": draw(WIDTH)}
    shared: dict[str, Tensor] = {}
    for index in range(DEPTH):
        if index % 3 == 0:
            shared = {
                "prompt_gate": draw(1),
                "prompt_key_proj_d.weight": draw(20, WIDTH),
                "prompt_key_proj_d.bias": draw(20),
                "prompt_key_proj_u.weight": draw(WIDTH, 20),
                "prompt_key_proj_u.bias": draw(WIDTH),
            }
        block = f"encoder.transformer.resblocks.{index}."
        state |= {f"{block}prompt_proj.{name}": value.clone() for name, value in shared.items()}
        for norm in ("ln_1", "ln_2"):
            state |= {f"{block}{norm}.weight": 1 + draw(WIDTH), f"{block}{norm}.bias": draw(WIDTH)}
        shapes = {
            "attn.in_proj_": 3 * WIDTH, "attn.out_proj.": WIDTH, "mlp.c_fc.": 4 * WIDTH,
        }  # fmt: skip
        for name, rows in shapes.items():
            state |= {f"{block}{name}weight": draw(rows, WIDTH), f"{block}{name}bias": draw(rows)}
        state[f"{block}mlp.c_proj.weight"] = draw(WIDTH, 4 * WIDTH)
        state[f"{block}mlp.c_proj.bias"] = draw(WIDTH)
    return state


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def authors_logits(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """The released forward pass, written down from its description."""

    def of(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), *of(name))

    patches = F.conv2d(image, state["encoder.conv1.weight"], stride=PATCH)
    patches = patches.flatten(2).transpose(1, 2)
    first = torch.cat([state["encoder.prompt_token"][0], state["encoder.class_embedding"][None]])
    x = torch.cat([first.expand(len(image), -1, -1), patches], dim=1)
    places = ("encoder.prompt_positional_embedding", "encoder.positional_embedding")
    x = norm(x + torch.cat([state[name] for name in places]), "encoder.ln_pre")
    for index in range(DEPTH):
        block = f"encoder.transformer.resblocks.{index}."
        y = norm(x, f"{block}ln_1")
        packed = (state[f"{block}attn.in_proj_weight"], state[f"{block}attn.in_proj_bias"])
        q, k, v = F.linear(y, *packed).unflatten(-1, (3, WIDTH // 64, 64)).unbind(2)
        seen = F.scaled_dot_product_attention(*(one.transpose(1, 2) for one in (q, k, v)))
        x = x + F.linear(seen.transpose(1, 2).flatten(2), *of(f"{block}attn.out_proj"))
        hidden = quick_gelu(F.linear(norm(x, f"{block}ln_2"), *of(f"{block}mlp.c_fc")))
        inner = quick_gelu(F.linear(x, *of(f"{block}prompt_proj.prompt_key_proj_d")))
        beside = F.linear(inner, *of(f"{block}prompt_proj.prompt_key_proj_u"))
        gate = state[f"{block}prompt_proj.prompt_gate"]
        x = x + F.linear(hidden, *of(f"{block}mlp.c_proj")) + gate * beside
    x = norm(x[:, : PROMPTS + 1], "encoder.ln_post").mean(1)
    return x @ state["encoder.proj"] @ state["fc_head.weight"].T


@torch.no_grad()
def test_gives_the_authors_logits(tmp_path: Path) -> None:
    state = authors_state()
    torch.save(state, source := tmp_path / "best_validation_weights.pt")
    record = convert("dvpt", source, out := tmp_path / "dvpt.safetensors")
    assert record.backbone == "clip_vit_b_16"
    assert record.notes[0] == f"{len(state)} tensors became {len(state) - 4 * 5}: " + (
        "shared modules were there once per block"
    )
    image = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = authors_logits(state, image)
    torch.testing.assert_close(load_dvpt(out)(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("-encoder.ln_pre.bias", r"1 missing: norm_first\.bias"),
        ("+encoder.extra", r"1 unexpected: encoder\.extra"),
        ("-fc_head.weight", "this is no DVPT classifier on CLIP's ViT: 'head.weight'"),
        (
            "+encoder.transformer.resblocks.4.prompt_proj.prompt_gate",
            r"resblocks\.4\.prompt_proj\.prompt_gate differs from the copy",
        ),
    ],
)
def test_every_key_is_accounted_for(tmp_path: Path, key: str, match: str) -> None:
    state = authors_state()
    if key[0] == "-":
        del state[key[1:]]
    else:
        state[key[1:]] = torch.ones(1)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=match):
        convert("dvpt", tmp_path / "x.pt", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no DVPT classifier on CLIP's ViT"):
        convert("dvpt", tmp_path / "x.pt", tmp_path / "x.safetensors")
