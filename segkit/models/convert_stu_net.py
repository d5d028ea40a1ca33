"""STU-Net: files of nnU-Net, version 1 (`.model`) and 2 (`.pth`), as the authors publish them."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.backbones.torch_file import read_torch
from segkit.baselines.network import NetworkOptions
from segkit.baselines.structures import STRUCTURES
from segkit.baselines.stunet import STU_NETS, StuNet
from segkit.baselines.transfer import HEADS, STEM, without_heads
from segkit.data.preprocess import InputSpec, Intensity
from segkit.errors import CheckpointError
from segkit.models.conversion_task import Conversion, Task, find_layout
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.models.supervised import SUPERVISED

_PATCH, _SPACING_MM = (128, 128, 128), (1.5, 1.5, 1.5)  # of the pre-training
_STANDARDISED = (
    "intensities are brought to mean 0 and deviation 1 per block, as the plan of the weights says "
    "(nnU-Net 'nonCT', although the data are CT), there per case"
)
_OWN_ORDER = "the authors number classes in alphabetical order: compare them by name"
_NO_PLAN = (
    "the file holds no plan: down-samplings, patch and spacing are those of the pre-training; "
    "a network fine-tuned with another plan needs that plan's"
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a file of nnU-Net version 2 says beside its weights; axes in array order (k, j, i)."""

    strides: list[list[int]] | None = None
    patch: tuple[int, int, int] = _PATCH
    spacing_mm: tuple[float, float, float] | None = None
    labels: Mapping[int, str] = field(default_factory=dict)
    is_known: bool = False


def convert_stu_net(task: Task) -> Conversion:
    """Write one file with the whole network; `backbone.checkpoint` of a training takes it too."""
    state = task.state()
    outputs, channels = _size(state, f"{HEADS}0.weight", 0), _size(state, STEM[0], 1)
    with torch.device("meta"):
        layouts: dict[str, Mapping[str, Tensor]] = {
            name: StuNet(sizes, outputs=outputs, in_channels=channels).state_dict()
            for name, sizes in STU_NETS.items()
            if task.backbone in (None, name)
        }
    name = find_layout(layouts, state, task)
    plan = _read_plan(task.path)
    if channels not in (1, 3):
        raise CheckpointError(
            f"the network has {channels} input channels; segkit feeds 1 or 3",
            path=task.path,
            fix="fine-tune again from the one-channel weights",
        )
    network = NetworkOptions(strides=plan.strides, in_channels=None if channels == 1 else channels)
    segmenter = SUPERVISED[name](classes=outputs - 1, network=network)
    segmenter.backbone.encoder.load_state_dict(without_heads(state))
    segmenter.decoder.load_state_dict(_heads(state))
    is_published = outputs - 1 == len(STRUCTURES) and not plan.labels
    labels = plan.labels or (STRUCTURES if is_published else _numbered(outputs - 1))
    blocks = InputSpec(
        channels="repeat",
        intensity=Intensity("percentile", 0.0, 100.0),
        patch=plan.patch,
        spacing_mm=plan.spacing_mm or (_SPACING_MM if is_published else None),
    )
    save_adapter(task.out, segmenter, ModelInfo.of(segmenter, labels=labels, input=blocks))
    notes = (_STANDARDISED, *((_OWN_ORDER,) * is_published), *((_NO_PLAN,) * (not plan.is_known)))
    return task.record(name, {"adapter": task.out}, notes=notes)


def _size(state: Mapping[str, Tensor], key: str, axis: int) -> int:
    """Side of a tensor, or that of the published weights where the tensor is missing."""
    default = len(STRUCTURES) + 1 if axis == 0 else 1
    return state[key].shape[axis] if key in state and state[key].ndim > axis else default


def _heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Output layers under segkit's names: there 0 is the finest level, in the file the coarsest."""
    found = {
        key.removeprefix(HEADS): value for key, value in state.items() if key.startswith(HEADS)
    }
    last = max(int(key.partition(".")[0]) for key in found)
    return {
        f"heads.{last - int(number)}.{kind}": value
        for key, value in found.items()
        for number, kind in (key.split("."),)
    }


def _numbered(classes: int) -> dict[int, str]:
    return {number: f"class_{number}" for number in range(1, classes + 1)}


def _read_plan(path: Path) -> _Plan:
    """The plan in a file of version 2; that of version 1 lies in a pickle, which is not read.

    Raises:
        CheckpointError: The plan is there, but not as nnU-Net writes it.
    """
    if not zipfile.is_zipfile(path):
        return _Plan()
    with path.open("rb") as file:
        content: Any = read_torch(file, path)
    if not isinstance(content, dict) or "init_args" not in content:
        return _Plan()
    try:
        told = content["init_args"]
        found = told["plans"]["configurations"][told["configuration"]]
        names = {int(value): name for name, value in told["dataset_json"]["labels"].items()}
        strides = found["pool_op_kernel_sizes"]
        return _Plan(
            strides=[list(step) for step in strides[1:]],
            patch=tuple(found["patch_size"]),
            spacing_mm=tuple(found["spacing"]),
            labels={value: names[value] for value in sorted(names) if value > 0},
            is_known=True,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"its nnU-Net plan cannot be understood: {error!r}",
            path=path,
            fix="save the entry 'network_weights' alone",
        ) from error
