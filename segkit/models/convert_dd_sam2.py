"""DD-SAM2: runs of the released training code, which saves the whole model."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from segkit.adapters import DepthwiseDilated
from segkit.backbones.checkpoints import KeyReport
from segkit.backbones.sam2_checkpoints import from_official, read_sam2
from segkit.data.preprocess import InputSpec, Intensity
from segkit.errors import CheckpointError
from segkit.models.build import BUILDERS
from segkit.models.conversion_task import Conversion, Task
from segkit.models.convert_sam2 import find_sam2
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo

_PREFIX = "model."
_ADAPTER = re.compile(r"image_encoder\.trunk\.blocks\.(\d+)\.adapter\.(.+)\.(weight|bias)")
_LAYERS = {"pw1.0": "down", "dw2_1.0": "branches.0", "dw2_2.0": "branches.1", "pw2.0": "up"}
_DECODER = "sam_mask_decoder."
_VERSIONS = ("sam2_tiny", "sam2_small", "sam2_base_plus", "sam2_large", "sam2_test")
_NOTES = (
    "compat='authors': the released adapter, whose last layer does not start at zero",
    "trained at 1024 pixels (from SAM 2.1) or 512 (from MedSAM2), which the file does not say: "
    "build with the right image_size; intensities are scaled by the range of the whole video",
)


def convert_dd_sam2(task: Task) -> Conversion:
    """Write adapter and decoder to the adapter file, the SAM 2 they stand on to one beside it.

    With the checkpoint it was trained from, that file is the backbone and none is written.

    Raises:
        CheckpointError: The keys are others, or the frozen part differs from the checkpoint.
    """
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in task.state().items()}
    adapter = {name: state.pop(name) for name in list(state) if _ADAPTER.match(name)}
    _check_variant(adapter, task.path)
    name = find_sam2(state, task, _VERSIONS)
    if task.checkpoint is None:
        base = task.beside
        task.write_weights(base, state)
    else:
        base = task.checkpoint
        _check_frozen(state, read_sam2(base).tensors, task)
    blocks = len({match[1] for key in adapter if (match := _ADAPTER.match(key))})
    segmenter = BUILDERS[name](
        checkpoint=base,
        adapter=partial(DepthwiseDilated, blocks=max(blocks, 1), compat="authors"),
    )
    learned = {f"backbone.adapter.{_own_name(key)}": value for key, value in adapter.items()}
    decoder = {k: v for k, v in from_official(state).items() if k.startswith(_DECODER)}
    own = segmenter.trainable_state()
    learned |= {f"decoder.module.{k.removeprefix(_DECODER)}": v for k, v in decoder.items()}
    learned.pop("decoder.module.no_mem_embed", None)
    KeyReport.compare(own, learned).raise_if_any(task.path)
    segmenter.load_trainable_state(learned)
    whole_range = Intensity("percentile", 0.0, 100.0)
    frames = InputSpec(2, segmenter.spec.image_size, "rgb", whole_range)
    save_adapter(task.out, segmenter, ModelInfo.of(segmenter, input=frames))
    outputs = {"adapter": task.out} | ({} if task.checkpoint else {"backbone": base})
    return task.record(name, outputs, notes=_NOTES)


def _own_name(key: str) -> str:
    """Authors' name of an adapter tensor to that of `DepthwiseDilated`."""
    match = _ADAPTER.fullmatch(key)
    assert match is not None  # chosen by the same pattern
    return f"layers.{match[1]}.{_LAYERS.get(match[2], match[2])}.{match[3]}"


def _check_variant(adapter: Mapping[str, Tensor], path: Path) -> None:
    if not adapter:
        raise CheckpointError(
            "holds no adapter (no key like image_encoder.trunk.blocks.0.adapter.pw1.0.weight)",
            fix="convert plain SAM 2 weights with --from sam2",
            path=path,
            code="keys_differ",
        )
    if any(".adapter.blk." in key for key in adapter):
        raise CheckpointError(
            "holds the serial adapter of the ablation, whose dilation rates no file says",
            fix="convert a run of the main adapter (keys dw2_1 and dw2_2)",
            path=path,
            code="unknown_variant",
        )


def _check_frozen(state: Mapping[str, Tensor], base: Mapping[str, Tensor], task: Task) -> None:
    """Refuse another backbone; the mask decoder is trained and may differ."""
    KeyReport.compare(state, base).raise_if_any(str(task.checkpoint))
    frozen = [key for key in state if not key.startswith(_DECODER)]
    if changed := [key for key in frozen if not state[key].equal(base[key])]:
        raise CheckpointError(
            f"{len(changed)} frozen tensors differ from {task.checkpoint}, the first is "
            f"{changed[0]}",
            fix="give the file it was trained from, or leave --checkpoint out",
            path=task.path,
            code="other_backbone",
        )
