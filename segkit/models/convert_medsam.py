"""MedSAM: SAM's layout, trained on pixels without SAM's mean and deviation."""

import torch

from segkit.backbones.sam import PIXEL_MEAN, PIXEL_STD
from segkit.models.conversion_task import Conversion, Task, find_sam

_PATCHES = "image_encoder.patch_embed.proj"


def convert_medsam(task: Task) -> Conversion:
    """MedSAM feeds [0, 1] to the encoder; its patch embedding takes over undoing SAM's scaling.

    (255 x - mean) / std is what segkit and SAM feed; a linear layer on x is a linear layer on that.
    """
    state = task.state()
    sizes = find_sam(state, task)
    weight, bias = (state[f"{_PATCHES}.{name}"] for name in ("weight", "bias"))
    mean, std = (torch.tensor(v).double().view(3, 1, 1) / 255 for v in (PIXEL_MEAN, PIXEL_STD))
    exact = weight.double()
    state[f"{_PATCHES}.weight"] = (exact * std).to(weight.dtype)
    state[f"{_PATCHES}.bias"] = (bias.double() + (exact * mean).sum((1, 2, 3))).to(bias.dtype)
    note = (
        "MedSAM does not subtract SAM's pixel mean; the patch embedding now undoes it, so the file "
        "is used like any SAM file"
    )
    task.write_weights(task.out, state)
    return task.record(sizes.name, {"weights": task.out}, notes=(note,))
