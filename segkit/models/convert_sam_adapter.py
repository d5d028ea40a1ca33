"""SAM-Adapter: SAM with a prompt generator, saved whole by its authors."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from segkit.adapters import HighFrequency
from segkit.backbones.checkpoints import KeyReport
from segkit.backbones.sam import sam_spec
from segkit.backbones.sam_modules import SamSizes
from segkit.data.preprocess import InputSpec, Intensity
from segkit.decoders import FirstMaskDecoder
from segkit.models.build import BUILDERS
from segkit.models.conversion_task import Conversion, Task, complete_sam, find_sam
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.prompts.encoder import SamPromptEncoder

_GENERATOR = "image_encoder.prompt_generator."
# what a model without prompts has no use for, and SAM-Adapter does not keep
_PROMPT_ONLY = tuple(
    f"prompt_encoder.{name}"
    for name in ("point_embeddings.", "not_a_point_embed.", "mask_downscaling.")
)
# SAM-Adapter keeps two parts of SAM's prompt encoder at the top of its model
_MOVED = {
    "no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight",
    "pe_layer.positional_encoding_gaussian_matrix": (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    ),
}
_NOTES = (
    "compat='authors': the released code's forward pass, with its own position code",
    "the authors stretch images to a square; segkit keeps the aspect and pads",
)


def convert_sam_adapter(task: Task) -> Conversion:
    """Write the generator to the adapter file and all that SAM has to a weight file beside it."""
    state = {_MOVED.get(key, key): value for key, value in task.state().items()}
    generator = {
        key.removeprefix(_GENERATOR): state.pop(key)
        for key in list(state)
        if key.startswith(_GENERATOR)
    }
    sizes = find_sam(state, task, lacks=_PROMPT_ONLY)
    filled = complete_sam(state, sizes, task)
    _check_generator(generator, sizes, task.path)
    task.write_weights(task.beside, state)
    segmenter = BUILDERS[sizes.name](
        checkpoint=task.beside,
        adapter=partial(HighFrequency, compat="authors"),
        prompt_encoder=partial(SamPromptEncoder, trained="no_mask"),
        decoder=FirstMaskDecoder,
        classes=1,
    )
    segmenter.backbone.adapter.load_state_dict(_renamed(generator))
    pictures = InputSpec(
        dimensions=2, size=sizes.image_size, channels="rgb", intensity=Intensity("full")
    )
    info = ModelInfo.of(segmenter, labels={1: "foreground"}, input=pictures)
    save_adapter(task.out, segmenter, info)
    outputs = {"adapter": task.out, "backbone": task.beside}
    return task.record(sizes.name, outputs, filled=filled, notes=_NOTES)


def _renamed(generator: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Authors' names of the prompt generator to those of `HighFrequency`."""
    names = {
        "shared_mlp": "up.0",
        "embedding_generator": "embedding.0",
        "prompt_generator.proj": "patches.0",
    }
    renamed: dict[str, Tensor] = {}
    for key, value in generator.items():
        layer, _, kind = key.rpartition(".")
        if layer.startswith("lightweight_mlp_"):
            layer = "light." + layer.removeprefix("lightweight_mlp_").removesuffix(".0")
        renamed[f"{names.get(layer, layer)}.{kind}"] = value
    return renamed


def _check_generator(generator: Mapping[str, Tensor], sizes: SamSizes, path: Path) -> None:
    """Refuse keys that are not those of the generator for this SAM."""
    with torch.device("meta"):
        expected = HighFrequency(sam_spec(sizes), compat="authors").state_dict()
    KeyReport.compare(expected, _renamed(generator)).raise_if_any(path)
