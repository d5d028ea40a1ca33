"""Weight files of SAM 2: the official layout, and segkit's names for it."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from segkit.backbones.checkpoints import load_strictly, read_weights
from segkit.backbones.sam2_modules import Sam2Modules

IMAGE_HALF = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")
"""How names of the image half begin in official files; `no_mem_embed` serves both halves."""

_TRUNK_MLP = re.compile(r"(image_encoder\.trunk\.blocks\.\d+\.mlp\.)layers\.([01])\.")
_OWN_MLP = re.compile(r"(image_encoder\.trunk\.blocks\.\d+\.mlp\.)fc([12])\.")
_NO_MEMORY = "sam_mask_decoder.no_mem_embed"


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the image half of an official state dict the names of `Sam2Modules`."""
    names = {
        name: _TRUNK_MLP.sub(lambda match: f"{match[1]}fc{int(match[2]) + 1}.", name)
        for name in state
        if name.startswith(IMAGE_HALF)
    }
    names |= {"no_mem_embed": _NO_MEMORY} if "no_mem_embed" in state else {}
    return {new: state[old] for old, new in names.items()}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the state dict of `Sam2Modules` the official names."""
    names = {
        name: _OWN_MLP.sub(lambda match: f"{match[1]}layers.{int(match[2]) - 1}.", name)
        for name in state
    }
    names |= {_NO_MEMORY: "no_mem_embed"}
    return {new: state[old] for old, new in names.items()}


def load_sam2(modules: Sam2Modules, path: str | Path, *, sha256: str | None = None) -> str:
    """Load an official SAM 2 file and return its sha256.

    Raises:
        CheckpointError: See `read_weights` and `load_strictly`.
    """
    weights = read_weights(path, allow_torch=True, sha256=sha256)
    load_strictly(modules, from_official(weights.tensors), path)
    return weights.sha256
