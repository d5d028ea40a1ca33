"""Official SAM 2 files and hub folders of transformers, both with the memory half."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from segkit.backbones.sam2_checkpoints import to_official, weight_file, with_official_names
from segkit.backbones.sam2_modules import SAM2_SIZES, Sam2Modules, Sam2Sizes
from segkit.memory.modules import Sam2Memory
from segkit.models.build_sam2 import memory_sizes
from segkit.models.conversion_task import Conversion, Task, find_layout


def convert_sam2(task: Task) -> Conversion:
    """Convert value for value; the result has official names."""
    task = replace(task, path=weight_file(task.path))
    state = with_official_names(task.state(), task.path)
    name = find_sam2(state, task)
    task.write_weights(task.out, state)
    return task.record(name, {"weights": task.out})


def find_sam2(state: dict[str, Tensor], task: Task, names: Iterable[str] = SAM2_SIZES) -> str:
    """Name of the SAM 2 whose keys and shapes these are, image and memory half.

    Raises:
        CheckpointError: There is none; the message says how the nearest differs.
    """
    layouts = {
        name: sam2_state(SAM2_SIZES[name]) for name in names if task.backbone in (None, name)
    }
    return find_layout(layouts, state, task)


def sam2_state(sizes: Sam2Sizes) -> dict[str, Tensor]:
    """Keys and shapes of an official file, without values."""
    with torch.device("meta"):
        modules, memory = Sam2Modules(sizes), Sam2Memory(memory_sizes(sizes))
    return {**to_official(modules.state_dict()), **memory.state_dict()}
