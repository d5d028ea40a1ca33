"""Weight files of SAM 2: official files and hub folders of transformers, loaded strictly.

Three sets of names meet here. Official: image and memory half in one state dict. Ours: the trunk is
timm's and `no_mem_embed` is part of the mask decoder. Hub: the official names through a table.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from segkit.backbones.checkpoints import KeyReport, WeightFile, path_inside, read_weights
from segkit.backbones.sam2_modules import Sam2Modules
from segkit.errors import CheckpointError

HUB_FILE = "model.safetensors"

_IMAGE_HALF = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")
_OFFICIAL_MLP = re.compile(r"^(image_encoder\.trunk\.blocks\.\d+\.mlp\.)layers\.([01])\.")
_OWN_MLP = re.compile(r"^(image_encoder\.trunk\.blocks\.\d+\.mlp\.)fc([12])\.")
_NO_MEMORY = "sam_mask_decoder.no_mem_embed"

_MATRIX = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_HUB_MATRICES = (
    "prompt_encoder.shared_embedding.positional_embedding",
    "shared_image_embedding.positional_embedding",
)
_POINTS = tuple(f"sam_prompt_encoder.point_embeddings.{kind}.weight" for kind in range(4))
_HUB_POINTS = "prompt_encoder.point_embed.weight"
_TWO, _THREE = ("proj_in", "proj_out"), ("proj_in", "layers.0", "proj_out")


def _mlp(official: str, hub: str, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Linear layers, which are numbered in official files and named on the hub."""
    return [(f"{official}layers.{index}.", f"{hub}{name}.") for index, name in enumerate(names)]


def _norms(official: str, hub: str, count: int) -> list[tuple[str, str]]:
    return [(f"{official}norm{n}.", f"{hub}layer_norm{n}.") for n in range(1, count + 1)]


def _outputs(official: str, hub: str, *attentions: str) -> list[tuple[str, str]]:
    return [(f"{official}{name}.out_proj.", f"{hub}{name}.o_proj.") for name in attentions]


def _numbered(official: str, hub: str, names: Mapping[int, str]) -> list[tuple[str, str]]:
    return [(f"{official}{index}.", f"{hub}{name}.") for index, name in names.items()]


_BLOCK = ("image_encoder.trunk.blocks.#.", "vision_encoder.backbone.blocks.#.")
_TWO_WAY = ("sam_mask_decoder.transformer.", "mask_decoder.transformer.")
_TWO_WAY_LAYER = (f"{_TWO_WAY[0]}layers.#.", f"{_TWO_WAY[1]}layers.#.")
_ATTENTION = ("memory_attention.layers.#.",) * 2
_DOWNSAMPLER = ("memory_encoder.mask_downsampler.encoder.", "memory_encoder.mask_downsampler.")
_FUSER = ("memory_encoder.fuser.layers.#.", "memory_encoder.memory_fuser.layers.#.")
_HUB_NAMES: tuple[tuple[str, str], ...] = (
    ("image_encoder.trunk.patch_embed.proj.", "vision_encoder.backbone.patch_embed.projection."),
    *_norms(*_BLOCK, 2),
    *_mlp(f"{_BLOCK[0]}mlp.", f"{_BLOCK[1]}mlp.", _TWO),
    ("image_encoder.trunk.", "vision_encoder.backbone."),
    ("image_encoder.neck.convs.#.conv.", "vision_encoder.neck.convs.#."),
    *_numbered(
        "sam_prompt_encoder.mask_downscaling.",
        "prompt_encoder.mask_embed.",
        {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"},
    ),
    ("sam_prompt_encoder.", "prompt_encoder."),
    *_numbered(
        "sam_mask_decoder.output_upscaling.",
        "mask_decoder.",
        {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"},
    ),
    *(
        pair
        for head in ("output_hypernetworks_mlps.#", "iou_prediction_head", "pred_obj_score_head")
        for pair in _mlp(f"sam_mask_decoder.{head}.", f"mask_decoder.{head}.", _THREE)
    ),
    *_norms(*_TWO_WAY_LAYER, 4),
    *_mlp(f"{_TWO_WAY_LAYER[0]}mlp.", f"{_TWO_WAY_LAYER[1]}mlp.", _TWO),
    *_outputs(
        *_TWO_WAY_LAYER, "self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"
    ),
    *_outputs(*_TWO_WAY, "final_attn_token_to_image"),
    (f"{_TWO_WAY[0]}norm_final_attn.", f"{_TWO_WAY[1]}layer_norm_final_attn."),
    ("sam_mask_decoder.", "mask_decoder."),
    *_norms(*_ATTENTION, 3),
    *_outputs(*_ATTENTION, "self_attn", "cross_attn_image"),
    ("memory_attention.norm.", "memory_attention.layer_norm."),
    ("memory_encoder.out_proj.", "memory_encoder.projection."),
    ("memory_encoder.pix_feat_proj.", "memory_encoder.feature_projection."),
    *_numbered(*_DOWNSAMPLER, {3 * n: f"layers.{n}.conv" for n in range(4)}),
    *_numbered(*_DOWNSAMPLER, {3 * n + 1: f"layers.{n}.layer_norm" for n in range(4)}),
    *_numbered(*_DOWNSAMPLER, {12: "final_conv"}),
    *(
        (f"{_FUSER[0]}{official}", f"{_FUSER[1]}{hub}")
        for official, hub in (
            ("dwconv.", "depthwise_conv."),
            ("norm.", "layer_norm."),
            ("pwconv1.", "pointwise_conv1."),
            ("pwconv2.", "pointwise_conv2."),
            ("gamma", "scale"),
        )
    ),
    *_mlp("obj_ptr_proj.", "object_pointer_proj.", _THREE),
    ("obj_ptr_tpos_proj.", "temporal_positional_encoding_projection_layer."),
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
)
"""How names begin in official files and in transformers' `Sam2VideoModel`; # is an index.

The first match counts; names without a match are equal.
"""


def load_sam2(
    modules: Sam2Modules, memory: nn.Module, path: str | Path, *, sha256: str | None = None
) -> str:
    """Load an official SAM 2 file, or a hub folder, and return the sha256 of the file.

    `memory` is the memory half under official names. Either half may be on the meta device: it then
    only says which keys the file must have. A file without any memory serves where none is loaded.

    Raises:
        CheckpointError: See `read_sam2`; or a key is missing, unexpected or of another shape.
    """
    weights = read_sam2(path, sha256=sha256)
    image, remembered = to_official(modules.state_dict()), memory.state_dict()
    is_needed = not _is_outline(remembered)
    has_memory = not remembered.keys().isdisjoint(weights.tensors)
    expected = {**image, **remembered} if is_needed or has_memory else image
    KeyReport.compare(expected, weights.tensors).raise_if_any(path)
    if not _is_outline(image):
        modules.load_state_dict(from_official(weights.tensors))
    if is_needed:
        memory.load_state_dict({name: weights.tensors[name] for name in remembered})
    return weights.sha256


def read_sam2(path: str | Path, *, sha256: str | None = None) -> WeightFile:
    """Read a file of any of the two layouts, or a hub folder; names are the official ones.

    Raises:
        CheckpointError: See `read_weights` and `with_official_names`.
    """
    path = weight_file(path)
    weights = read_weights(path, allow_torch=True, sha256=sha256)
    tensors = with_official_names(weights.tensors, path)
    return WeightFile(tensors, weights.metadata, weights.sha256)


def weight_file(path: str | Path) -> Path:
    """The file of weights in a hub folder; any other path as it is."""
    path = Path(path)
    return path_inside(path, HUB_FILE) if (path / HUB_FILE).is_file() else path


def with_official_names(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Translate the names of hub files; official ones stay as they are.

    Raises:
        CheckpointError: See `from_hub`.
    """
    is_hub = any(name.startswith("vision_encoder.") for name in state)
    return from_hub(state, path) if is_hub else dict(state)


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the image half of an official state dict the names of `Sam2Modules`."""
    return {
        _NO_MEMORY
        if name == "no_mem_embed"
        else _OFFICIAL_MLP.sub(lambda match: f"{match[1]}fc{int(match[2]) + 1}.", name): tensor
        for name, tensor in state.items()
        if name.startswith(_IMAGE_HALF)
    }


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state dict of `Sam2Modules` the official names."""
    return {
        "no_mem_embed"
        if name == _NO_MEMORY
        else _OWN_MLP.sub(lambda match: f"{match[1]}layers.{int(match[2]) - 1}.", name): tensor
        for name, tensor in state.items()
    }


def to_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give an official state dict the names of transformers' `Sam2VideoModel`."""
    rest = {name: tensor for name, tensor in state.items() if name not in (_MATRIX, *_POINTS)}
    found = {_renamed(name, _TO_HUB): tensor for name, tensor in rest.items()}
    found |= dict.fromkeys(_HUB_MATRICES, state[_MATRIX])
    return found | {_HUB_POINTS: torch.cat([state[name] for name in _POINTS])}


def from_hub(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Give tensors of a hub file their official names; unknown names stay as they are.

    transformers 4 saved one copy of the position code, transformers 5 saves two and fills a missing
    one with random numbers. Here either serves, and two must be equal.

    Raises:
        CheckpointError: The two copies differ.
    """
    matrices = [state[name] for name in _HUB_MATRICES if name in state]
    if len(matrices) == 2 and not torch.equal(*matrices):
        raise CheckpointError(
            f"holds two different position codes: {' and '.join(_HUB_MATRICES)}",
            fix="one was lost and filled with random numbers; save the folder again from the "
            "original weights",
            path=path,
            code="damaged_checkpoint",
        )
    found = {_MATRIX: matrices[0]} if matrices else {}
    if _HUB_POINTS in state:
        found |= dict(zip(_POINTS, state[_HUB_POINTS].split(1), strict=False))
    rest = (name for name in state if name not in (_HUB_POINTS, *_HUB_MATRICES))
    return found | {_renamed(name, _TO_OFFICIAL): state[name] for name in rest}


def _is_outline(state: Mapping[str, Tensor]) -> bool:
    return any(tensor.is_meta for tensor in state.values())


def _compiled(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Patterns and replacements of name beginnings with at most one index."""
    return tuple(
        (re.compile(re.escape(old).replace(r"\#", r"(\d+)")), new.replace("#", r"\1"))
        for old, new in pairs
    )


_TO_HUB = _compiled(_HUB_NAMES)
_TO_OFFICIAL = _compiled((hub, official) for official, hub in _HUB_NAMES)


def _renamed(name: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, new in rules:
        if match := pattern.match(name):
            return match.expand(new) + name[match.end() :]
    return name
