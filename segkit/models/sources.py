"""Where a builder's weights come from: a file, the package, or random numbers."""

import json
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from segkit.backbones.checkpoints import content_sha256
from segkit.errors import CheckpointError

Default = Literal["required", "random", "package"]
"""What `checkpoint=None` means to a builder."""

Load = Callable[[Path, str | None], str]
"""Loads a file whose sha256 must be the given one, and returns it."""

# tokens and the frequencies of the position code; the rest is scaled by its fan-in
_UNIT_SCALE = re.compile(r"((embed|embeddings\.\d+|tokens?)\.weight|gaussian_matrix)$")


def require_weights(checkpoint: str | Path | None, *, name: str, default: Default) -> None:
    """Refuse a model that needs a file of weights and got none, before anything large is made.

    Raises:
        CheckpointError: It got none.
    """
    if checkpoint is None and default == "required":
        raise CheckpointError(
            f"{name} needs weights, got checkpoint=None",
            fix=f"pass checkpoint=PATH; `segkit models info {name}` says where they are",
            code="no_weights",
        )


def fill(
    parts: Sequence[nn.Module],
    checkpoint: str | Path | None,
    load: Load,
    *,
    name: str,
    default: Default,
) -> str:
    """Load or draw the weights of a model's parts and return their sha256.

    Random weights of one part do not depend on the others, and the hash is that of the first.
    Parts on the meta device are left as they are.

    Raises:
        CheckpointError: Weights are missing, damaged, or of another model.
    """
    if next(parts[0].parameters()).is_meta:
        return ""
    if checkpoint is None and default == "package":
        return load(*package_file(name))
    kind, _, seed = str(checkpoint or "random").partition(":")
    if kind == "random" and (not seed or seed.isdecimal()):
        for part in parts:
            randomise(part, int(seed or 0))
        return content_sha256(parts[0].state_dict())
    return load(Path(str(checkpoint)), None)


def package_file(name: str) -> tuple[Path, str]:
    """Find the weights a model ships with in the package, and their recorded sha256.

    Raises:
        CheckpointError: The installation lacks them.
    """
    folder = Path(str(files("segkit"))) / "weights"
    weights, card = folder / f"{name}.safetensors", folder / f"{name}.json"
    for path in (weights, card):
        if not path.is_file():
            raise CheckpointError(
                f"this installation of segkit lacks the weights of {name!r}",
                path=path,
                fix="install a released wheel, or pass checkpoint=PATH",
                code="no_weights",
            )
    return weights, json.loads(card.read_text(encoding="utf-8"))["sha256"]


def randomise(module: nn.Module, seed: int) -> None:
    """Draw all weights from `seed`, the same on every run."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(module.state_dict().items()):
            if tensor.ndim > 1 or name.endswith("bias"):
                fan_in = 2500 if tensor.ndim == 1 else tensor[0].numel()
                scale = 1.0 if _UNIT_SCALE.search(name) else fan_in**-0.5
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
