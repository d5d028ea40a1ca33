"""Official and authors' checkpoints to segkit files; every key of a file is accounted for.

A family is one function of `_FAMILIES`. Weights of the SAM layout become one safetensors file; a
published method becomes an `adapter.safetensors` and the weight file of the backbone it stands on.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from segkit.adapters import HighFrequency
from segkit.backbones.checkpoints import KeyReport, WeightFile, read_weights, write_safetensors
from segkit.backbones.sam import PIXEL_MEAN, PIXEL_STD, sam_spec
from segkit.backbones.sam_modules import SIZES, SamModules, SamSizes
from segkit.data.preprocess import InputSpec, Intensity
from segkit.decoders import FirstMaskDecoder
from segkit.errors import CheckpointError, InputError
from segkit.models.build import BUILDERS
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.prompts.encoder import SamPromptEncoder

_PATCHES = "image_encoder.patch_embed.proj"
_GENERATOR = "image_encoder.prompt_generator."
_DATA_PARALLEL = "module."
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


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted; `filled` maps keys the source lacks to what stands in their place."""

    family: str
    backbone: str
    source: str
    source_sha256: str
    tensors: int
    outputs: Mapping[str, str]
    filled: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Write the record."""
        return json.dumps({"format": 1, **asdict(self)})


@dataclass(frozen=True, slots=True)
class _Task:
    """One call of `convert`."""

    family: str
    path: Path
    weights: WeightFile
    out: Path
    backbone: str | None
    checkpoint: Path | None

    def record(self, sizes: SamSizes, outputs: Mapping[str, Path], **more: object) -> Conversion:
        names = {kind: str(path) for kind, path in outputs.items()}
        return Conversion(
            self.family,
            sizes.name,
            str(self.path),
            self.weights.sha256,
            len(self.weights.tensors),
            names,
            **more,  # type: ignore[arg-type]
        )


def convert(
    family: str,
    source: str | Path,
    out: str | Path,
    *,
    backbone: str | None = None,
    checkpoint: str | Path | None = None,
) -> Conversion:
    """Convert a checkpoint.

    `backbone` names the size of SAM and is found from the weights without it. `checkpoint`, for
    methods on a frozen SAM, is the SAM file they were trained on: their frozen part must equal it.

    Raises:
        InputError: The family or the backbone is not known, or `out` is no safetensors file.
        CheckpointError: The file is damaged, unsafe, or its keys are not those of the family.
    """
    if family not in _FAMILIES:
        near = difflib.get_close_matches(family, _FAMILIES, n=1)
        raise InputError(
            f"this version cannot convert the family {family!r}",
            fix=(f"did you mean {near[0]!r}? " if near else "") + f"available: {families()}",
            code="unknown_family",
        )
    out = Path(out)
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise InputError(
            "the output must be a .safetensors file in an existing folder",
            path=out,
            fix="name it like adapter.safetensors",
        )
    if backbone is not None and backbone not in SIZES:
        near = difflib.get_close_matches(backbone, SIZES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {sorted(SIZES)}"
        raise InputError(f"there is no backbone {backbone!r}", fix=hint)
    weights = read_weights(source, allow_torch=True)
    given = None if checkpoint is None else Path(checkpoint)
    return _FAMILIES[family](_Task(family, Path(source), weights, out, backbone, given))


def families() -> list[str]:
    """Names `convert` knows."""
    return sorted(_FAMILIES)


def _sam(task: _Task) -> Conversion:
    state = _without_prefix(task.weights.tensors)
    sizes = _sizes(state, task)
    _write_weights(task.out, state, task)
    return task.record(sizes, {"weights": task.out})


def _medsam(task: _Task) -> Conversion:
    """MedSAM feeds [0, 1] to the encoder; its patch embedding takes over undoing SAM's scaling.

    (255 x - mean) / std is what segkit and SAM feed; a linear layer on x is a linear layer on that.
    """
    state = _without_prefix(task.weights.tensors)
    sizes = _sizes(state, task)
    weight, bias = (state[f"{_PATCHES}.{name}"] for name in ("weight", "bias"))
    mean, std = (torch.tensor(v).double().view(3, 1, 1) / 255 for v in (PIXEL_MEAN, PIXEL_STD))
    exact = weight.double()
    state[f"{_PATCHES}.weight"] = (exact * std).to(weight.dtype)
    state[f"{_PATCHES}.bias"] = (bias.double() + (exact * mean).sum((1, 2, 3))).to(bias.dtype)
    note = (
        "MedSAM does not subtract SAM's pixel mean; the patch embedding now undoes it, so the file "
        "is used like any SAM file"
    )
    _write_weights(task.out, state, task)
    return task.record(sizes, {"weights": task.out}, notes=(note,))


def _sam_adapter(task: _Task) -> Conversion:
    """SAM-Adapter: generator to the adapter file, all that SAM has to a weight file beside it."""
    state = {_MOVED.get(k, k): v for k, v in _without_prefix(task.weights.tensors).items()}
    generator = {
        key.removeprefix(_GENERATOR): state.pop(key)
        for key in list(state)
        if key.startswith(_GENERATOR)
    }
    sizes = _sizes(state, task, lacks=_PROMPT_ONLY)
    filled = _fill_prompt_weights(state, sizes, task)
    base = task.out.with_name(f"{task.out.stem}.backbone.safetensors")
    adapter = partial(HighFrequency, compat="authors")
    _check_generator(generator, sizes, task.path)
    _write_weights(base, state, task)
    segmenter = BUILDERS[sizes.name](
        checkpoint=base,
        adapter=adapter,
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
    notes = (
        "compat='authors': the released code's forward pass, with its own position code",
        "the authors stretch images to a square; segkit keeps the aspect and pads",
    )
    return task.record(sizes, {"adapter": task.out, "backbone": base}, filled=filled, notes=notes)


_FAMILIES: dict[str, Callable[[_Task], Conversion]] = {
    "sam": _sam,
    "medsam": _medsam,
    "sam-adapter": _sam_adapter,
}


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo what data-parallel training adds to every key."""
    if all(key.startswith(_DATA_PARALLEL) for key in state):
        return {key.removeprefix(_DATA_PARALLEL): value for key, value in state.items()}
    return dict(state)


def _meta_state(sizes: SamSizes) -> dict[str, Tensor]:
    with torch.device("meta"):
        return SamModules(sizes).state_dict()


def _sizes(state: Mapping[str, Tensor], task: _Task, lacks: tuple[str, ...] = ()) -> SamSizes:
    """Find the SAM whose keys and shapes these are, or report how the nearest differs."""
    reports: dict[str, KeyReport] = {}
    for name in [task.backbone] if task.backbone else SIZES:
        expected = {k: v for k, v in _meta_state(SIZES[name]).items() if not k.startswith(lacks)}
        report = KeyReport.compare(expected, state)
        if not report:
            return SIZES[name]
        reports[name] = report
    name = min(reports, key=lambda name: _differences(reports[name]))
    raise CheckpointError(
        f"keys are not those of {task.family!r} on {name}: {reports[name].text()}",
        fix="choose the family, and with --backbone the size, the file was made for",
        path=task.path,
        code="keys_differ",
    )


def _differences(report: KeyReport) -> int:
    return len(report.missing) + len(report.unexpected) + len(report.mismatched or ())


def _write_weights(out: Path, state: Mapping[str, Tensor], task: _Task) -> None:
    origin = {"family": task.family, "source": task.path.name, "sha256": task.weights.sha256}
    write_safetensors(out, state, {"segkit_convert": json.dumps(origin)})


def _fill_prompt_weights(state: dict[str, Tensor], sizes: SamSizes, task: _Task) -> dict[str, str]:
    """Complete the prompt encoder from the given SAM file, or with zeros, and say so."""
    expected = _meta_state(sizes)
    missing = [key for key in expected if key not in state]
    if task.checkpoint is None:
        state.update({key: torch.zeros(expected[key].shape) for key in missing})
        return dict.fromkeys(missing, "zeros; not used without prompts")
    official = read_weights(task.checkpoint, allow_torch=True).tensors
    KeyReport.compare(expected, official).raise_if_any(task.checkpoint)
    frozen = [key for key in state if key.startswith("image_encoder.")]
    if changed := [key for key in frozen if not torch.equal(state[key], official[key])]:
        raise CheckpointError(
            f"{len(changed)} frozen tensors differ from {task.checkpoint}, the first is "
            f"{changed[0]}",
            fix="give the SAM file it was trained on, or leave --checkpoint out",
            path=task.path,
            code="other_backbone",
        )
    state.update({key: official[key] for key in missing})
    return dict.fromkeys(missing, f"from {task.checkpoint.name}")


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
