"""3DSAM-adapter: encoder, point encoder and decoder, saved side by side by its authors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.adapters import Spatial
from segkit.backbones.checkpoints import KeyReport, read_content, write_safetensors
from segkit.backbones.sam3d_modules import LIFT_SIZES, LiftSizes
from segkit.data.preprocess import InputSpec, Intensity
from segkit.errors import CheckpointError, InputError
from segkit.models.build3d import SAM3D_BUILDERS
from segkit.models.conversion_task import Conversion, Task, complete_sam, find_layout
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter

_ENTRIES = ("encoder_dict", "decoder_dict")
_POINTS = "feature_dict"
_HEADS = ("2", "3", "4", "5")
_NOTES = (
    "compat='authors': points without labels, released initial forms, aligned corners",
    "masks of shifted windows are computed for any grid; those in the file are left out",
    "kernels are turned from (height, width, depth) to (depth, height, width)",
)


@dataclass(frozen=True, slots=True)
class GreyValues:
    """Clip and z-score of one of the released data sets, in Hounsfield units."""

    low: float
    high: float
    mean: float
    sd: float

    @property
    def grey(self) -> tuple[float, float]:
        """Mean and standard deviation after the clip range became [0, 1]."""
        span = self.high - self.low
        return (self.mean - self.low) / span, self.sd / span


RELEASED = {
    "kits": GreyValues(-54, 247, 59.54, 55.46),
    "lits": GreyValues(-48, 163, 60.06, 40.20),
    "pancreas": GreyValues(-39, 204, 68.45, 63.42),
    "colon": GreyValues(-57, 175, 65.18, 32.65),
}


def convert_3dsam_adapter(task: Task) -> Conversion:
    """Write what was trained to the adapter file, and SAM's frozen part to one beside it."""
    content, sha256 = read_content(task.path)
    parts = _parts(content, task.path)
    values = _grey_values(task.path)
    sizes = _sizes(parts["encoder"], task)
    frozen, trained = _split(parts, sizes, task.path)
    filled = complete_sam(frozen, sizes.sam, task)
    source = {"segkit_convert": f'{{"family": "{task.family}", "sha256": "{sha256}"}}'}
    write_safetensors(task.beside, frozen, source)
    is_automatic = "points" not in parts
    segmenter = released_model(
        sizes, is_automatic=is_automatic, checkpoint=task.beside, grey=values.grey
    )
    KeyReport.compare(segmenter.trainable_state(), trained).raise_if_any(task.path)
    segmenter.load_trainable_state(trained)
    side = segmenter.spec.image_size
    blocks = InputSpec(
        channels="repeat",
        intensity=Intensity("window", windows=((values.low, values.high),)),
        patch=(side, side, side),
        spacing_mm=(1.0, 1.0, 1.0),
    )
    save_adapter(task.out, segmenter, ModelInfo.of(segmenter, labels={1: "tumour"}, input=blocks))
    return Conversion(
        task.family,
        sizes.name,
        str(task.path),
        sha256,
        sum(len(part) for part in parts.values()),
        {"adapter": str(task.out), "backbone": str(task.beside)},
        {key: text.replace("without prompts", "here") for key, text in filled.items()},
        _NOTES,
    )


def released_model(
    sizes: LiftSizes,
    *,
    is_automatic: bool = False,
    checkpoint: str | Path | None = None,
    grey: tuple[float, float] | None = None,
) -> Segmenter:
    """Build the released form: 128^3 voxels with points, or twice the side without."""
    options: dict[str, Any] = {}
    if is_automatic:
        options = {"classes": 1, "upsample": sizes.upsample // 2, "image_size": 2 * sizes.side}
    return SAM3D_BUILDERS[sizes.name](
        checkpoint=checkpoint,
        adapter=partial(Spatial, compat="authors"),
        grey=grey,
        compat="authors",
        **options,
    )


def _parts(content: object, path: Path) -> dict[str, dict[str, Tensor]]:
    """Encoder, decoder and, unless the model is automatic, the one point encoder in use."""
    entries = content if isinstance(content, dict) else {}
    if missing := [name for name in _ENTRIES if not isinstance(entries.get(name), dict)]:
        raise CheckpointError(
            f"lacks the entries {missing}; it has {sorted(map(str, entries))[:8]}",
            fix="name the last.pth.tar or best.pth.tar of a training of 3DSAM-adapter",
            path=path,
            code="keys_differ",
        )
    parts = {name.removesuffix("_dict"): dict(entries[name]) for name in _ENTRIES}
    if (encoders := entries.get(_POINTS)) is not None:
        if not isinstance(encoders, list) or len(encoders) != 4:
            raise CheckpointError(f"{_POINTS} must be a list of 4 state dicts", path=path)
        parts["points"] = dict(encoders[3])
    for name, part in parts.items():
        if bad := [key for key, value in part.items() if not torch.isfinite(value).all()]:
            raise CheckpointError(
                f"{len(bad)} tensors of the {name} hold NaN or infinite values, first {bad[0]}",
                fix="use an earlier checkpoint",
                path=path,
                code="not_finite",
            )
    return parts


def _grey_values(path: Path) -> GreyValues:
    """Find the data set in the name of the file or its folder: the file itself does not say."""
    text = f"{path.absolute().parent.name}/{path.name}".lower()
    found = [values for name, values in RELEASED.items() if name in text]
    if len(found) != 1:
        raise InputError(
            "the file does not say which data it was trained on, and the grey values depend on it",
            fix=f"put one of {sorted(RELEASED)} into the name of the file or its folder",
            path=path,
            code="unknown_data",
        )
    return found[0]


def _sizes(encoder: dict[str, Tensor], task: Task) -> LiftSizes:
    """Find the SAM by the keys of the encoder, without what is computed."""
    state = {key: value for key, value in encoder.items() if not key.endswith("attn_mask")}
    layouts = {}
    for name, sizes in LIFT_SIZES.items():
        if task.backbone in (None, name) and sizes.sam.rel_pos:
            layouts[name] = _released_layout(sizes)
    return LIFT_SIZES[find_layout(layouts, state, task)]


def _released_layout(sizes: LiftSizes) -> dict[str, Tensor]:
    """Keys and shapes of the released encoder, without values."""
    with torch.device("meta"):
        segmenter = released_model(sizes, checkpoint="random")
    ours = dict(segmenter.backbone.encoder.state_dict())
    ours |= {f"lift.{k}": v for k, v in segmenter.backbone.lift.state_dict().items()}  # type: ignore[union-attr]
    ours |= {f"adapter.{k}": v for k, v in segmenter.backbone.adapter.state_dict().items()}
    layout = {_released_name(key): _released_kernel(value) for key, value in ours.items()}
    scales = {f"blocks.{i}.attn.lr": torch.empty(()) for i in range(sizes.sam.depth)}
    return layout | scales


def _released_name(key: str) -> str:
    """Authors' name of a tensor of the encoder."""
    for pattern, theirs in (
        (r"adapter\.layers\.(\d+)\.down", r"blocks.\1.adapter.linear1"),
        (r"adapter\.layers\.(\d+)\.up", r"blocks.\1.adapter.linear2"),
        (r"adapter\.layers\.(\d+)\.conv", r"blocks.\1.adapter.conv"),
        (r"lift\.blocks\.(\d+)\.rel_pos_d", r"blocks.\1.attn.rel_pos_d"),
        (r"lift\.necks", "neck_3d"),
        (r"lift\.", ""),
    ):
        key, count = re.subn(rf"^{pattern}", theirs, key)
        if count:
            break
    return key


def _released_kernel(value: Tensor) -> Tensor:
    return value.permute(0, 1, 3, 4, 2) if value.ndim == 5 else value


def _own_kernel(value: Tensor) -> Tensor:
    return value.permute(0, 1, 4, 2, 3).contiguous() if value.ndim == 5 else value


def _split(
    parts: Mapping[str, Mapping[str, Tensor]], sizes: LiftSizes, path: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of SAM by its keys, and the trained ones by ours."""
    encoder = {key: _own_kernel(value) for key, value in parts["encoder"].items()}
    for index in range(sizes.sam.depth):
        # a constant in the released training; scores are linear in the tables
        scale = encoder.pop(f"blocks.{index}.attn.lr")
        for axis in "hwd":
            encoder[f"blocks.{index}.attn.rel_pos_{axis}"] *= scale
    with torch.device("meta"):
        model = released_model(sizes, checkpoint="random")
    frozen = {f"image_encoder.{key}": encoder[key] for key in model.backbone.encoder.state_dict()}
    trained = {
        name: encoder[_released_name(name.removeprefix("backbone."))]
        for name in model.trainable_state()
        if name.startswith("backbone.")
    }
    trained |= {f"decoder.{k}": v for k, v in _decoder(parts["decoder"], path).items()}
    if "points" in parts:
        points = dict(parts["points"])
        points.pop("positional_encoding_gaussian_matrix", None)  # never read by the released code
        trained |= {
            key.replace("transformer.", "prompt_encoder.", 1): value
            for key, value in points.items()
        }
    return frozen, trained


def _decoder(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    names = {
        f"mlahead.head{head}.{layer}.weight": f"heads.{index}.{layer}.weight"
        for index, head in enumerate(_HEADS)
        for layer in (0, 3)
    } | {f"cls.{layer}.weight": f"joined.{layer}.weight" for layer in (0, 3)}
    KeyReport.compare(
        {name: state.get(name, torch.empty(0)) for name in names}, state
    ).raise_if_any(path)
    return {ours: _own_kernel(state[theirs]) for theirs, ours in names.items()}
