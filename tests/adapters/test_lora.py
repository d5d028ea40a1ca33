from functools import partial

import pytest
import torch
from torch import nn

from segkit.adapters import Adapter, LoRA, Stack
from segkit.adapters.lora import ThirdsLoRA
from segkit.backbones import SamBackbone, sam_spec
from segkit.backbones.sam_modules import TINY, SamModules
from segkit.typing import Grid

SPEC = sam_spec(TINY)
IMAGE, GRID = (
    torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    Grid((1, 64, 64)),
)


def level(backbone: SamBackbone) -> torch.Tensor:
    return backbone(IMAGE, GRID).levels[0].detach()


def randomise(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [(("qkv",), 1), (("proj",), 1), (("mlp",), 2), (("qkv", "proj", "mlp"), 4)],
)
def test_targets_name_the_layers(targets: tuple[str, ...], layers: int) -> None:
    adapter = SamBackbone.tiny(partial(LoRA, targets=targets)).adapter
    assert len(adapter.layers) == layers * TINY.depth
    assert len(list(adapter.parameters())) == 2 * layers * TINY.depth


def test_equals_the_edited_weights() -> None:
    backbone = SamBackbone.tiny(partial(LoRA, rank=2, alpha=6, targets=("qkv", "mlp")))
    randomise(backbone.adapter)
    plain = SamBackbone.tiny(Adapter)
    for name, pair in backbone.adapter.layers.items():
        weight = plain.encoder.get_parameter(name.replace(":", ".") + ".weight")
        weight.data += 6 / 2 * pair["lora_B"].weight.data @ pair["lora_A"].weight.data
    torch.testing.assert_close(level(backbone), level(plain), rtol=1e-4, atol=1e-5)


def test_thirds_equal_the_edited_weights() -> None:
    backbone = SamBackbone.tiny(partial(LoRA, rank=2, alpha=6, targets=("v", "proj", "q")))
    randomise(backbone.adapter)
    plain = SamBackbone.tiny(Adapter)
    for index, block in enumerate(plain.encoder.blocks):
        pair = backbone.adapter.layers[f"blocks:{index}:attn:qkv"]
        zero = torch.zeros(32, 32)
        edits = [
            pair["lora_B"][t].weight.data @ pair["lora_A"][t].weight.data if t in "qv" else zero
            for t in "qkv"
        ]
        block.attn.qkv.weight.data += 6 / 2 * torch.cat(edits)
        proj = backbone.adapter.layers[f"blocks:{index}:attn:proj"]
        block.attn.proj.weight.data += 3 * proj["lora_B"].weight.data @ proj["lora_A"].weight.data
    torch.testing.assert_close(level(backbone), level(plain), rtol=1e-4, atol=1e-5)


def test_the_gate_looks_at_each_window_by_itself() -> None:
    torch.manual_seed(0)
    layer = ThirdsLoRA(nn.Linear(6, 18), ("q", "v"), rank=2, gated=True)
    randomise(layer)
    x = torch.rand(3, 2, 4, 6)
    together = layer(x)
    torch.testing.assert_close(together, torch.cat([layer(one[None]) for one in x]))
    edit = together - layer.base_layer(x)
    assert not edit[..., 6:12].any()
    with torch.no_grad():
        layer.lora_gate.weight *= -2
    torch.testing.assert_close(layer(x) - layer.base_layer(x), -2 * edit)


@pytest.mark.parametrize("gated", [False, True])
def test_thirds_start_as_the_identity_and_keep_the_encoders_keys(gated: bool) -> None:
    backbone = SamBackbone.tiny(partial(LoRA, targets=("q", "v"), gated=gated))
    plain = SamBackbone.tiny(Adapter)
    with torch.no_grad():  # with gradients the two would sum in another order
        assert level(backbone).equal(level(plain))
    assert set(backbone.encoder.state_dict()) == set(plain.encoder.state_dict())
    assert all(not p.requires_grad for p in backbone.encoder.blocks[0].mlp.parameters())


def test_acts_in_both_attention_paths() -> None:
    torch.manual_seed(0)
    encoder = SamModules(TINY).image_encoder
    backbone = SamBackbone(encoder, TINY, partial(LoRA, targets=("qkv", "proj", "mlp")))
    randomise(backbone.adapter)
    eager = SamBackbone(encoder, TINY, Adapter, attention="eager")
    torch.testing.assert_close(level(backbone), level(eager), rtol=1e-4, atol=1e-5)


def test_weights_loaded_after_attaching_arrive() -> None:
    torch.manual_seed(1)
    modules, expected = SamModules(TINY), SamModules(TINY).state_dict()
    backbone = SamBackbone(modules.image_encoder, TINY, LoRA)
    kept = {name: tensor.clone() for name, tensor in backbone.adapter.state_dict().items()}
    modules.load_state_dict(expected)
    torch.testing.assert_close(dict(modules.state_dict()), dict(expected), rtol=0, atol=0)
    torch.testing.assert_close(dict(backbone.adapter.state_dict()), kept, rtol=0, atol=0)


def test_missing_and_unexpected_keys_are_still_noticed() -> None:
    backbone = SamBackbone.tiny(LoRA)
    state = backbone.encoder.state_dict()
    del state["blocks.0.attn.qkv.weight"]
    state["blocks.0.attn.qkv.extra"] = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*attn\.qkv.*Unexpected.*qkv\.extra"):
        backbone.encoder.load_state_dict(state)


@pytest.mark.parametrize("trainable", [True, False])
def test_full_fine_tuning_beside_lora_keeps_the_encoder_trainable(trainable: bool) -> None:
    encoder = SamModules(TINY).image_encoder
    backbone = SamBackbone(encoder, TINY, LoRA, trainable=trainable)
    mine = {id(parameter) for parameter in backbone.adapter.parameters()}
    rest = [p for p in encoder.parameters() if id(p) not in mine]
    assert {p.requires_grad for p in rest} == {trainable}
    assert all(p.requires_grad for p in backbone.adapter.parameters())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"alpha": 0}, "alpha must be None or >= 1, got 0"),
        ({"targets": ("kv",)}, r"targets must be some of .*'qkv'.* got \('kv',\)"),
        ({"targets": ("qkv", "v")}, r"targets name 'qkv' and its part 'v'; choose one"),
        ({"gated": True}, r"gated=True needs targets among \('q', 'k', 'v'\), got \('qkv'"),
        ({"targets": ()}, "targets must be some of"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LoRA(SPEC, **options)  # type: ignore[arg-type]


def test_encoders_without_such_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="no linear layers for target 'qkv'"):
        LoRA(SPEC).attach(nn.Linear(2, 2))


def test_a_second_lora_is_refused() -> None:
    with pytest.raises(ValueError, match="has LoRA layers already; use one LoRA"):
        SamBackbone.tiny(partial(Stack, adapters=[LoRA, LoRA]))
