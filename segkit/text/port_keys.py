"""Key names of BiomedCLIP files: all that are in use, brought to those of `open_clip`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PREFIXES = ("module.", "model.")
"""What wrappers of training scripts put before every key."""

_BLOCK, _TRUNK = r"vision_model\.encoder\.layers\.(\d+)\.", r"visual.trunk.blocks.\1."
_LAYER, _BERT = r"text_model\.encoder\.layers\.(\d+)\.", r"text.transformer.encoder.layer.\1."
_OLD_TABLE, _TABLE = r"text_model\.embeddings\.", "text.transformer.embeddings."
_NAMES = {
    r"vision_model\.embeddings\.patch_embedding\.": "visual.trunk.patch_embed.proj.",
    rf"{_BLOCK}self_attn\.out_proj\.": f"{_TRUNK}attn.proj.",
    rf"{_BLOCK}layer_norm([12])\.": rf"{_TRUNK}norm\2.",
    rf"{_BLOCK}mlp\.": f"{_TRUNK}mlp.",
    r"vision_model\.post_layernorm\.": "visual.trunk.norm.",
    r"visual_projection\.": "visual.head.proj.",
    rf"{_OLD_TABLE}token_embedding\.": f"{_TABLE}word_embeddings.",
    rf"{_OLD_TABLE}position_embedding\.": f"{_TABLE}position_embeddings.",
    rf"{_OLD_TABLE}token_type_embedding\.": f"{_TABLE}token_type_embeddings.",
    rf"{_OLD_TABLE}layer_norm\.": f"{_TABLE}LayerNorm.",
    rf"{_LAYER}self_attn\.q_proj\.": f"{_BERT}attention.self.query.",
    rf"{_LAYER}self_attn\.k_proj\.": f"{_BERT}attention.self.key.",
    rf"{_LAYER}self_attn\.v_proj\.": f"{_BERT}attention.self.value.",
    rf"{_LAYER}self_attn\.out_proj\.": f"{_BERT}attention.output.dense.",
    rf"{_LAYER}layer_norm1\.": f"{_BERT}attention.output.LayerNorm.",
    rf"{_LAYER}mlp\.fc1\.": f"{_BERT}intermediate.dense.",
    rf"{_LAYER}mlp\.fc2\.": f"{_BERT}output.dense.",
    rf"{_LAYER}layer_norm2\.": f"{_BERT}output.LayerNorm.",
    r"text_projection\.fc1\.": "text.proj.0.",
    r"text_projection\.fc2\.": "text.proj.2.",
}
_RULES = tuple((re.compile(old), new) for old, new in _NAMES.items())
_QKV = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")
_COUNTERS = re.compile(r"(text\.transformer|text_model)\.embeddings\.position_ids")
"""A row of numbers that old files hold; it is counted anew."""


def to_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a file with or without wrapper prefixes, in either naming.

    Keys nobody knows stay as they are, for the strict load to refuse.
    """
    plain = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    plain = {name: tensor for name, tensor in plain.items() if not _COUNTERS.fullmatch(name)}
    if not any(name.startswith("vision_model.") for name in plain):
        return plain
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in plain.items():
        if match := _QKV.fullmatch(name):
            block, part, kind = match.groups()
            key = f"visual.trunk.blocks.{block}.attn.qkv.{kind}"
            parts.setdefault(key, {})[part] = tensor
        elif name == "vision_model.embeddings.class_embedding":
            found["visual.trunk.cls_token"] = tensor.reshape(1, 1, -1)
        elif name == "vision_model.embeddings.position_embedding.weight":
            found["visual.trunk.pos_embed"] = tensor[None]
        elif not name.endswith("embeddings.position_ids"):
            found[_renamed(name)] = tensor
    for key, three in parts.items():
        found[key] = torch.cat([three[part] for part in "qkv" if part in three])
    return found


def _unwrapped(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _renamed(name: str) -> str:
    for pattern, new in _RULES:
        if match := pattern.match(name):
            return match.expand(new) + name[match.end() :]
    return name
