"""MedSAM: SAM's layout, trained on pixels without SAM's mean and deviation."""

from collections.abc import Mapping

import torch
from torch import Tensor

from segkit.backbones.sam import PIXEL_MEAN, PIXEL_STD
from segkit.models.conversion_task import Conversion, Task, find_sam

_PATCHES = "image_encoder.patch_embed.proj"


def convert_medsam(task: Task) -> Conversion:
    """MedSAM feeds [0, 1] to the encoder; its patch embedding takes over undoing SAM's scaling."""
    state = task.state()
    sizes = find_sam(state, task)
    state = without_scaling(state)
    note = (
        "MedSAM does not subtract SAM's pixel mean; the patch embedding now undoes it, so the file "
        "is used like any SAM file"
    )
    task.write_weights(task.out, state)
    return task.record(sizes.name, {"weights": task.out}, notes=(note,))


def without_scaling(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Let the patch embedding of a model that was trained on [0, 1] undo SAM's mean and deviation.

    (255 x - mean) / std is what segkit and SAM feed; a linear layer on x is a linear layer on that.
    """
    weight, bias = (state[f"{_PATCHES}.{name}"] for name in ("weight", "bias"))
    mean, std = (torch.tensor(v).double().view(3, 1, 1) / 255 for v in (PIXEL_MEAN, PIXEL_STD))
    exact = weight.double()
    return dict(state) | {
        f"{_PATCHES}.weight": (exact * std).to(weight.dtype),
        f"{_PATCHES}.bias": (bias.double() + (exact * mean).sum((1, 2, 3))).to(bias.dtype),
    }
