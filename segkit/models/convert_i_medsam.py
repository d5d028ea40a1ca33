"""I-MedSAM: what its authors trained, on the SAM file they trained it on."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.adapters import Frequency, LoRA, Stack
from segkit.backbones.checkpoints import KeyReport, read_weights
from segkit.backbones.sam_modules import SIZES, SamSizes
from segkit.data.preprocess import InputSpec, Intensity
from segkit.decoders import InrDecoder
from segkit.errors import CheckpointError, InputError
from segkit.models.build import BUILDERS
from segkit.models.conversion_task import Conversion, Task, find_sam, sam_state
from segkit.models.convert_medsam import without_scaling
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.prompts.encoder import SamPromptEncoder

AT_384 = {"sam_vit_b": "sam_vit_b_384"}
"""The size of input the authors train at, for each SAM they offer."""
_FIELD = "mask_decoder.seg_field.seg_net."
_PARTS = {"0": "coarse_trunk", "1": "fine_trunk", "2": "coarse_heads", "3": "fine_heads"}
_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_NOTES = (
    "compat='authors': one box per object; at test time the released code refines an arbitrary "
    "eighth of the pixels, because its uncertainty is 0 everywhere",
    "the authors feed pixels in [0, 1] without SAM's mean; the patch embedding now undoes it",
    "the authors stretch images to a square; segkit keeps the aspect and pads",
)


def convert_i_medsam(task: Task) -> Conversion:
    """Write what was trained to the adapter file, and SAM at its input size to one beside it."""
    state = task.state()
    frozen, sizes = _frozen_sam(task)
    trained = {key: state.pop(key) for key in list(state) if _is_trained(key)}
    frozen |= _stored_sam(state, sam_state(sizes), task)
    segmenter = _build(frozen, sizes, task, trained)
    _load(segmenter, trained, sizes, task)
    pictures = InputSpec(2, sizes.image_size, "rgb", Intensity("full"))
    info = ModelInfo.of(segmenter, labels={1: "foreground"}, input=pictures)
    save_adapter(task.out, segmenter, info)
    outputs = {"adapter": task.out, "backbone": task.beside}
    source = f"from {task.checkpoint.name}" if task.checkpoint else ""
    kept = [key for key in frozen if key.startswith("image_encoder.")]
    kept += [key for key in frozen if key.startswith("mask_decoder.output_hypernetworks")]
    filled = dict.fromkeys([key for key in kept if key not in state], source)
    return task.record(sizes.name, outputs, filled=filled, notes=_NOTES)


def resized_to(state: Mapping[str, Tensor], sizes: SamSizes) -> dict[str, Tensor]:
    """Resize the position tables of SAM's encoder to another input size, as the authors do.

    The embedding bilinearly in the plane, the relative positions of global blocks linearly.
    """
    expected = sam_state(sizes)
    resized = dict(state)
    for key, value in state.items():
        if value.shape == (shape := expected[key].shape):
            continue
        if key.endswith("pos_embed"):
            maps = value.permute(0, 3, 1, 2)
            maps = F.interpolate(maps, size=tuple(shape[1:3]), mode="bilinear")
            resized[key] = maps.permute(0, 2, 3, 1).contiguous()
        else:
            table = value[None, None]
            resized[key] = F.interpolate(table, size=tuple(shape), mode="bilinear")[0, 0]
    return resized


def _frozen_sam(task: Task) -> tuple[dict[str, Tensor], SamSizes]:
    """Read the SAM the file stands on, at the size it was trained at."""
    if task.checkpoint is None:
        raise InputError(
            "I-MedSAM's files lack the frozen encoder",
            path=task.path,
            fix="pass --checkpoint with the SAM ViT-B file, sam_vit_b_01ec64.pth",
            code="no_checkpoint",
        )
    official = read_weights(task.checkpoint, allow_torch=True).tensors
    given = Task("sam", task.checkpoint, task.out, None, None)
    found = find_sam(official, given)
    sizes = SIZES[AT_384.get(found.name, found.name)]
    return without_scaling(resized_to(official, sizes)), sizes


def _is_trained(key: str) -> bool:
    if key == _POSITIONS:
        return False
    starts = ("w_a_", "w_b_", "w_g_", _FIELD, "prompt_encoder.", "mask_decoder.output_upscaling.")
    return key.startswith(starts) or ".freq_adapter." in key or ".freq_norm." in key


def _stored_sam(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], task: Task
) -> dict[str, Tensor]:
    """Frozen parts of the mask decoder and the position code, which the file repeats."""
    wanted = {
        key: value
        for key, value in expected.items()
        if key == _POSITIONS or (key.startswith("mask_decoder.") and not _is_trained(key))
    }
    KeyReport.compare(wanted, state).raise_if_any(task.path)
    return dict(state)


def _build(
    frozen: Mapping[str, Tensor], sizes: SamSizes, task: Task, trained: Mapping[str, Tensor]
) -> Segmenter:
    heads = {key.split(".")[4] for key in trained if key.startswith(f"{_FIELD}2.")}
    if heads != {"0"}:
        raise CheckpointError(
            f"the file has heads for {len(heads)} classes, chosen by the caller per object",
            fix="only the published model with one class can be converted",
            path=task.path,
        )
    rank = len(trained["w_a_000"]) if "w_a_000" in trained else 4
    task.write_weights(task.beside, frozen)
    lora = partial(LoRA, rank=rank, targets=("q", "v"), gated=True)
    return BUILDERS[sizes.name](
        checkpoint=task.beside,
        adapter=partial(Stack, adapters=[lora, partial(Frequency, compat="authors")]),
        prompt_encoder=partial(SamPromptEncoder, trained="all"),
        decoder=partial(InrDecoder, compat="authors"),
    )


def _load(segmenter: Segmenter, trained: Mapping[str, Tensor], sizes: SamSizes, task: Task) -> None:
    """Copy what was trained.

    Raises:
        CheckpointError: A tensor is missing, unexpected, mis-shaped, or should never have changed.
    """
    state = {authors_name(key): value for key, value in trained.items() if ".freq_norm." not in key}
    _check_norms(trained, sizes, task)
    # not part of the released model: it always shows the whole code at test time
    state["decoder.progress"] = torch.tensor(1.0)
    KeyReport.compare(segmenter.trainable_state(), state).raise_if_any(task.path)
    segmenter.load_trainable_state(state)


def authors_name(key: str) -> str:
    """Authors' names to those of `Segmenter.trainable_state`."""
    kind, _, number = key.rpartition("_")
    lora = "backbone.adapter.members.0.layers.blocks:{}:attn:qkv"
    if kind in ("w_a", "w_b"):
        matrix, third = {"w_a": "lora_A", "w_b": "lora_B"}[kind], "qv"[int(number) % 2]
        return f"{lora.format(int(number) // 2)}.{matrix}.{third}.weight"
    if kind == "w_g":
        return f"{lora.format(int(number))}.lora_gate.weight"
    if ".freq_adapter." in key:
        _, _, index, _, layer, tensor = key.split(".")
        layer = {"D_fc1": "down", "D_fc2": "up"}.get(layer, layer)
        return f"backbone.adapter.members.1.layers.{index}.{layer}.{tensor}"
    if key.startswith(_FIELD):
        part, _, rest = key.removeprefix(_FIELD).partition(".")
        if part == "2":  # a sequence of one layer
            head, _, tensor = rest.split(".")
            rest = f"{head}.{tensor}"
        return f"decoder.field_net.{_PARTS.get(part, part)}.{rest}"
    if key.startswith("prompt_encoder."):
        return key.replace("prompt_encoder.", "prompt_encoder.module.", 1)
    return key.replace("mask_decoder.", "decoder.", 1)


def _check_norms(trained: Mapping[str, Tensor], sizes: SamSizes, task: Task) -> None:
    """The norms before the bottlenecks are never trained: they must be there and untouched."""
    expected = {
        f"image_encoder.blocks.{index}.freq_norm.{name}": value
        for index in range(sizes.depth)
        for name, value in (
            ("weight", torch.ones(sizes.embed_dim)),
            ("bias", torch.zeros(sizes.embed_dim)),
        )
    }
    found = {key: value for key, value in trained.items() if ".freq_norm." in key}
    KeyReport.compare(expected, found).raise_if_any(task.path)
    if changed := [key for key, value in expected.items() if not torch.equal(found[key], value)]:
        raise CheckpointError(
            f"{changed[0]} was trained, which the released code never does",
            fix="only files of the released training script can be converted",
            path=task.path,
        )
