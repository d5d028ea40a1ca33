"""Published methods and bare backbones, built without weights to count their parameters."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import segkit.adapters
import segkit.decoders
from segkit.adapters import Adapter, DepthwiseDilated, HighFrequency, LoRA
from segkit.adapters.base import Compat
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import SIZES, SamModules
from segkit.decoders import Decoder, FirstMaskDecoder, MaskDecoder, QueryDecoder
from segkit.errors import InputError
from segkit.models.build import BUILDERS
from segkit.models.segmenter import Segmenter
from segkit.prompts.encoder import SamPromptEncoder

PUBLISHED = (
    "3dsam-adapter", "sam-adapter", "i-medsam", "dd-sam2", "dvpt", "stu-net-s", "stu-net-b",
    "stu-net-l", "stu-net-h",
)  # fmt: skip
"""Published methods segkit is about; those without an entry in `METHODS` are still to come."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a method puts on a backbone."""

    adapter: Callable[..., nn.Module] = Adapter
    prompt_encoder: Callable[..., Any] = SamPromptEncoder
    decoder: Callable[..., Decoder] = MaskDecoder


@dataclass(frozen=True, slots=True)
class Method:
    """A method on its usual backbone; `authors` is the released form, None if there is none."""

    name: str
    summary: str
    source: str
    backbone: str
    default: Parts
    authors: Parts | None = None


_CLASS = partial(QueryDecoder, classes=1)
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            "sam-adapter",
            "high-frequency prompts before each block, decoder trained without prompts",
            "SAM Fails to Segment Anything? SAM-Adapter (2023, arXiv 2304.09148)",
            "sam_vit_b",
            Parts(HighFrequency, decoder=_CLASS),
            Parts(
                partial(HighFrequency, compat="authors"),
                partial(SamPromptEncoder, trained="no_mask"),
                FirstMaskDecoder,
            ),
        ),
        Method(
            "dilated-sam",
            "the depthwise-dilated adapter of DD-SAM2 on the first half of a SAM encoder's blocks",
            "Depthwise-Dilated Convolutional Adapters for SAM 2 (2025, arXiv 2507.14613)",
            "sam_vit_b",
            Parts(partial(DepthwiseDilated, blocks=6), decoder=_CLASS),
            None,
        ),
        Method(
            "lora-sam",
            "low-rank updates of attention weights",
            "LoRA (2021, arXiv 2106.09685)",
            "sam_vit_b",
            Parts(LoRA, decoder=_CLASS),
            None,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Count:
    """Parameters of a model in all, trained ones, and both by part."""

    total: int
    trainable: int
    parts: Mapping[str, int]
    trainable_parts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Description:
    """A model as `describe` built it; `compat` is "authors" for the released form."""

    name: str
    backbone: str
    compat: Compat | None
    parameters: Count
    summary: str
    source: str


def describe(
    name: str, *, compat: Compat | None = None, backbone: str | None = None
) -> Description:
    """Build a method, or a bare backbone, without weights and count its parameters.

    Raises:
        InputError: The method is not part of this version, there is no such name, or the method
            has no released form that differs.
    """
    if name in SIZES:
        sizes = SIZES[backbone or name]
        source = "Segment Anything (2023, arXiv 2304.02643)"
        summary = "SAM architecture with its interactive decoder, no adapter"
        parts = Parts()
        if compat is not None or sizes.name != name:
            raise InputError(f"{name} is a backbone; it takes neither --compat nor --backbone")
    else:
        method = find_method(name)
        if compat is not None and method.authors is None:
            raise InputError(
                f"{name} has no released form of its own", fix="leave --compat out", code="compat"
            )
        parts = method.authors if compat is not None and method.authors else method.default
        sizes = SIZES[_backbone(backbone or method.backbone)]
        source, summary = method.source, method.summary
    with torch.device("meta"):
        modules = SamModules(sizes)
        segmenter = Segmenter(
            SamBackbone(modules.image_encoder, sizes, parts.adapter),
            parts.prompt_encoder(modules.prompt_encoder),
            parts.decoder(modules.mask_decoder),
        )
    return Description(name, sizes.name, compat, count_parameters(segmenter), summary, source)


def find_method(name: str) -> Method:
    """Method of that name.

    Raises:
        InputError: It is not part of this version, or not known at all.
    """
    if name in METHODS:
        return METHODS[name]
    known = [*METHODS, *SIZES]
    if name in PUBLISHED:
        raise InputError(
            f"the published method {name!r} is not part of this version",
            fix=f"available: {', '.join(known)}",
            code="not_in_this_version",
        )
    near = difflib.get_close_matches(name, [*known, *PUBLISHED], n=1)
    raise InputError(
        f"there is no method or backbone {name!r}",
        fix=f"did you mean {near[0]!r}?" if near else f"available: {', '.join(known)}",
        code="unknown_model",
    )


def count_parameters(segmenter: Segmenter) -> Count:
    """Count parameters by part; the parts add up to the total."""
    modules = {
        "encoder": segmenter.backbone.encoder,
        "adapter": segmenter.backbone.adapter,
        "prompt_encoder": segmenter.prompt_encoder,
        "decoder": segmenter.decoder,
    }
    seen: set[int] = set()
    parts, trainable = dict.fromkeys(modules, 0), dict.fromkeys(modules, 0)
    for name, module in modules.items():
        for parameter in module.parameters():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            parts[name] += parameter.numel()
            trainable[name] += parameter.numel() * parameter.requires_grad
    return Count(sum(parts.values()), sum(trainable.values()), parts, trainable)


def building_blocks() -> dict[str, dict[str, str]]:
    """Adapters and decoders by class name, with the first line of what they say of themselves."""
    return {
        "adapters": _classes(segkit.adapters, Adapter),
        "decoders": _classes(segkit.decoders, Decoder),
    }


def _classes(package: Any, base: type[nn.Module]) -> dict[str, str]:
    found = inspect.getmembers(package, inspect.isclass)
    return {
        name: (inspect.getdoc(one) or "").split("\n")[0]
        for name, one in found
        if issubclass(one, base) and one is not base
    }


def _backbone(name: str) -> str:
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, BUILDERS, n=1)
        raise InputError(
            f"there is no backbone {name!r}",
            fix=f"did you mean {near[0]!r}?" if near else f"available: {sorted(BUILDERS)}",
        )
    return name
