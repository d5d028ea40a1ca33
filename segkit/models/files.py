"""Models on disk: `adapter.safetensors`, run folders and builder names."""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.backbones.checkpoints import file_sha256, path_inside, read_weights, write_safetensors
from segkit.errors import CheckpointError, InputError
from segkit.models.build import BUILDERS
from segkit.models.info import ModelInfo
from segkit.models.recipe import Recipe
from segkit.models.segmenter import Segmenter

ADAPTER_FILE = "adapter.safetensors"
ENTRY = "segkit"


def save_adapter(
    path: str | Path, segmenter: Segmenter, info: ModelInfo, *, dtype: torch.dtype | None = None
) -> None:
    """Write what was trained, with the description of the model in the header.

    `dtype` rounds the weights in the file, such as torch.bfloat16 for half its size (relative error
    of a weight up to 2^-9); a model that is loaded computes in its own precision again.

    Raises:
        InputError: `info` describes another model, or names more classes than the model has, or
            weights cannot be stored in `dtype`.
    """
    if info.recipe != segmenter.recipe:
        raise InputError(
            f"the description belongs to another model: {info.recipe}, not {segmenter.recipe}",
            fix="use ModelInfo.of(segmenter, ...)",
        )
    classes = int(getattr(segmenter.decoder, "classes", 0))
    if segmenter.is_automatic and max(info.labels, default=0) > classes:
        raise InputError(
            f"labels name the values {sorted(info.labels)}, but the model has {classes} classes",
            fix="number the classes 1, 2, ... without gaps",
        )
    state = segmenter.trainable_state()
    if dtype is not None:
        state = {name: _rounded(name, one, dtype) for name, one in state.items()}
    write_safetensors(path, state, {ENTRY: info.to_json()})


def _rounded(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Counters stay what they are."""
    if not dtype.is_floating_point:
        raise InputError(
            f"weights cannot be stored as {dtype}", fix="torch.bfloat16, torch.float16, or nothing"
        )
    if not tensor.is_floating_point():
        return tensor
    rounded = tensor.to(dtype)
    if not torch.isfinite(rounded).all():
        raise InputError(
            f"{name} holds values up to {tensor.abs().max():.3g}, too large for {dtype}",
            fix="use torch.bfloat16, which has the range of float32",
        )
    return rounded


def load_adapter(
    path: str | Path, *, checkpoint: str | Path | None = None
) -> tuple[Segmenter, ModelInfo]:
    """Build the model a file describes and load its trained weights.

    `checkpoint` is the weight file of the backbone; models that ship in the package need none.

    Raises:
        CheckpointError: The file is damaged, of a newer format, names a class that is not part of
            segkit, or was trained on other backbone weights than those given.
    """
    path = Path(path)
    weights = read_weights(path)
    try:
        if ENTRY not in weights.metadata:
            raise CheckpointError(
                f"no adapter file: its header has no entry {ENTRY!r}",
                fix="official weights are passed as checkpoint=..., see `segkit convert --help`",
            )
        info = ModelInfo.from_json(weights.metadata[ENTRY])
        segmenter = _build(info.recipe, checkpoint)
        segmenter.load_trainable_state(weights.tensors)
    except CheckpointError as error:
        if error.path is not None:
            raise
        raise CheckpointError(error.cause, fix=error.fix, path=path, code=error.code) from error
    return segmenter.eval(), info


def load_model(
    name_or_path: str | Path, *, checkpoint: str | Path | None = None
) -> tuple[Segmenter, ModelInfo]:
    """Load a run folder, an adapter file, or the bare model of a builder ("nano").

    A builder's name comes first; write "./nano" for a folder of that name.

    Raises:
        CheckpointError: There is nothing of that name, or the file is refused.
    """
    if str(name_or_path) in BUILDERS:
        segmenter = BUILDERS[str(name_or_path)](checkpoint=checkpoint).eval()
        return segmenter, ModelInfo.of(segmenter)
    path = Path(name_or_path)
    if path.is_dir():
        path = path_inside(path, ADAPTER_FILE)
    if not path.exists():
        near = difflib.get_close_matches(str(name_or_path), BUILDERS, n=1)
        raise CheckpointError(
            "there is no such run folder, adapter file or model name",
            path=path,
            fix=f"did you mean {near[0]!r}?" if near else f"model names: {sorted(BUILDERS)}",
            code="not_found",
        )
    return load_adapter(path, checkpoint=checkpoint)


def _build(recipe: Recipe, checkpoint: str | Path | None) -> Segmenter:
    """Build a model without its trained weights, on exactly the backbone it was trained on."""
    origin = recipe.backbone
    if origin.name not in BUILDERS:
        raise CheckpointError(
            f"the file needs the backbone {origin.name!r}, which this segkit does not know",
            fix=f"known: {sorted(BUILDERS)}",
        )
    if BUILDERS[origin.name].weights == "none":
        checkpoint = None  # the file holds the whole network, whatever it started from
    # before the weights are read: another model's file has other shapes too
    if checkpoint is not None and Path(checkpoint).is_file():
        _check_hash(recipe, file_sha256(checkpoint))
    try:
        segmenter = BUILDERS[origin.name](
            checkpoint=checkpoint,
            adapter=recipe.adapter.factory("adapter"),
            decoder=recipe.decoder.factory("decoder"),
            prompt_encoder=recipe.prompt.factory("prompt"),
            trainable=recipe.trainable,
            image_size=origin.image_size,
            **dict[str, Any](origin.options),
        )
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the file describes a model that cannot be built: {error}"
        ) from error
    _check_hash(recipe, ModelInfo.of(segmenter).recipe.backbone.sha256)
    return segmenter


def _check_hash(recipe: Recipe, found: str) -> None:
    if found != recipe.backbone.sha256:
        raise CheckpointError(
            f"the adapter was trained on {recipe.backbone.name} with sha256 "
            f"{recipe.backbone.sha256}, the given weights have sha256 {found}",
            fix="pass the weight file it was trained with as checkpoint=...",
            code="other_backbone",
        )
