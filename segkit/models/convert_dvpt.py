"""DVPT: the classifier on CLIP's ViT, saved whole by its authors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from segkit.backbones.checkpoints import KeyReport
from segkit.errors import CheckpointError
from segkit.models.conversion_task import Conversion, Task
from segkit.models.dvpt_classifier import (
    CLIP_BACKBONE,
    ClassifierSizes,
    DvptClassifier,
    find_sizes,
)

_BLOCK = "encoder.transformer.resblocks."
_NAMES = {
    "encoder.conv1.weight": "patches.weight",
    "encoder.class_embedding": "class_token",
    "encoder.positional_embedding": "positions",
    "encoder.prompt_token": "prompts",
    "encoder.prompt_positional_embedding": "prompt_positions",
    "encoder.ln_pre.": "norm_first.",
    "encoder.ln_post.": "norm_last.",
    "encoder.proj": "project",
    "fc_head.weight": "head.weight",
}
_IN_BLOCK = {
    "attn.": "attn.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "mlp.c_fc.": "lin1.",
    "mlp.c_proj.": "lin2.",
}
_SHARED = {
    "prompt_proj.prompt_gate": "gate",
    "prompt_proj.prompt_key_proj_d.": "down.",
    "prompt_proj.prompt_key_proj_u.": "up.",
}
_SHARE = ClassifierSizes().share


def convert_dvpt(task: Task) -> Conversion:
    """Rename, and store once what is shared; `segkit.models.dvpt_classifier.load_dvpt` reads it."""
    state = task.state()
    renamed = _renamed(state, task)
    with torch.device("meta"):
        expected = DvptClassifier(find_sizes(renamed, task.path)).state_dict()
    KeyReport.compare(expected, renamed).raise_if_any(task.path)
    task.write_weights(task.out, renamed)
    notes = (
        f"{len(state)} tensors became {len(renamed)}: shared modules were there once per block",
        "a classifier of pictures in [0, 1]; open it with segkit.models.dvpt_classifier.load_dvpt",
    )
    return task.record(CLIP_BACKBONE, {"weights": task.out}, notes=notes)


def _renamed(state: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Our names; keys without one stay as they are, to be reported.

    Raises:
        CheckpointError: Two copies of one shared module differ.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = authors_name(key)
        if name in renamed and not torch.equal(renamed[name], value):
            raise CheckpointError(
                f"{key} differs from the copy of the same shared module in an earlier block",
                fix="the file was not made by the released training script",
                path=task.path,
                code="aliases_differ",
            )
        renamed[name] = value
    return renamed


def authors_name(key: str) -> str:
    """Our name of an authors' tensor; one without is left as it is."""
    if not key.startswith(_BLOCK):
        return _replaced(key, _NAMES)
    index, _, rest = key.removeprefix(_BLOCK).partition(".")
    if rest.startswith("prompt_proj."):
        return f"bottlenecks.{int(index) // _SHARE}.{_replaced(rest, _SHARED)}"
    return f"blocks.{index}.{_replaced(rest, _IN_BLOCK)}"


def _replaced(key: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if key == old or (old.endswith(".") and key.startswith(old)):
            return new + key.removeprefix(old)
    return key
