import torch

from segkit.text.bert import BertSizes, BertText
from segkit.text.port_keys import to_open_clip

SIZES = BertSizes(10, 8, 1, 16, 6, 2, 8, 4)


def published():
    """A complete state dict in the naming of open_clip: one image block and one text layer."""
    torch.manual_seed(0)
    text = {f"text.{name}": tensor for name, tensor in BertText(SIZES).state_dict().items()}
    trunk = {
        "cls_token": (1, 1, 8), "pos_embed": (1, 5, 8), "patch_embed.proj.weight": (8, 3, 4, 4),
        "patch_embed.proj.bias": (8,), "norm.weight": (8,), "norm.bias": (8,),
        "blocks.0.attn.qkv.weight": (24, 8), "blocks.0.attn.qkv.bias": (24,),
        "blocks.0.attn.proj.weight": (8, 8), "blocks.0.attn.proj.bias": (8,),
        "blocks.0.norm1.weight": (8,), "blocks.0.norm2.bias": (8,),
        "blocks.0.mlp.fc1.weight": (16, 8), "blocks.0.mlp.fc2.bias": (8,),
    }  # fmt: skip
    image = {f"visual.trunk.{name}": torch.randn(shape) for name, shape in trunk.items()}
    return (
        text | image | {"visual.head.proj.weight": torch.randn(4, 8), "logit_scale": torch.ones(())}
    )


def ported():
    """The same weights as the port names them, by the table of the method's page."""
    old = published()
    v, t = "visual.trunk.", "text.transformer."
    layer, block = f"{t}encoder.layer.0.", f"{v}blocks.0."
    new = {
        "logit_scale": old["logit_scale"],
        "visual_projection.weight": old["visual.head.proj.weight"],
        "vision_model.embeddings.class_embedding": old[f"{v}cls_token"][0, 0],
        "vision_model.embeddings.position_embedding.weight": old[f"{v}pos_embed"][0],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "text_model.embeddings.position_ids": torch.arange(6)[None],
        "text_projection.fc1.weight": old["text.proj.0.weight"],
        "text_projection.fc2.weight": old["text.proj.2.weight"],
    }
    renamed = {
        f"{v}patch_embed.proj.weight": "vision_model.embeddings.patch_embedding.weight",
        f"{v}patch_embed.proj.bias": "vision_model.embeddings.patch_embedding.bias",
        f"{v}norm.weight": "vision_model.post_layernorm.weight",
        f"{v}norm.bias": "vision_model.post_layernorm.bias",
        f"{block}attn.proj.weight": "vision_model.encoder.layers.0.self_attn.out_proj.weight",
        f"{block}attn.proj.bias": "vision_model.encoder.layers.0.self_attn.out_proj.bias",
        f"{block}norm1.weight": "vision_model.encoder.layers.0.layer_norm1.weight",
        f"{block}norm2.bias": "vision_model.encoder.layers.0.layer_norm2.bias",
        f"{block}mlp.fc1.weight": "vision_model.encoder.layers.0.mlp.fc1.weight",
        f"{block}mlp.fc2.bias": "vision_model.encoder.layers.0.mlp.fc2.bias",
    }
    new |= {name: old[key] for key, name in renamed.items()}
    for kind in ("weight", "bias"):
        three = old[f"{block}attn.qkv.{kind}"].chunk(3)
        for part, tensor in zip("qkv", three, strict=True):
            new[f"vision_model.encoder.layers.0.self_attn.{part}_proj.{kind}"] = tensor
        pairs = {
            "attention.self.query": "self_attn.q_proj", "attention.self.key": "self_attn.k_proj",
            "attention.self.value": "self_attn.v_proj",
            "attention.output.dense": "self_attn.out_proj",
            "attention.output.LayerNorm": "layer_norm1", "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2", "output.LayerNorm": "layer_norm2",
        }  # fmt: skip
        for key, name in pairs.items():
            new[f"text_model.encoder.layers.0.{name}.{kind}"] = old[f"{layer}{key}.{kind}"]
        new[f"text_model.embeddings.layer_norm.{kind}"] = old[f"{t}embeddings.LayerNorm.{kind}"]
    for key, name in (
        ("word", "token"), ("position", "position"), ("token_type", "token_type")
    ):  # fmt: skip
        new[f"text_model.embeddings.{name}_embedding.weight"] = old[
            f"{t}embeddings.{key}_embeddings.weight"
        ]
    return new


def check_equal(found, wanted):
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_files_in_the_port_naming_are_renamed():
    check_equal(to_open_clip(ported()), published())


def test_prefixes_of_wrappers_are_dropped():
    check_equal(to_open_clip({f"module.{k}": v for k, v in published().items()}), published())
    check_equal(to_open_clip({f"model.{k}": v for k, v in ported().items()}), published())


def test_row_numbers_of_old_files_are_dropped():
    old = published() | {"text.transformer.embeddings.position_ids": torch.arange(6)[None]}
    check_equal(to_open_clip(old), published())


def test_unknown_keys_stay_for_the_strict_load():
    found = to_open_clip(ported() | {"vision_model.extra": torch.zeros(1)})
    assert "vision_model.extra" in found
