"""Published methods and bare backbones, built without weights to count their parameters.

A method is one entry of `METHODS`. Most are parts on a backbone: `on_backbone(Parts(...))` builds
those on any builder of `segkit.build`. Whatever else a method is, its `build` returns its modules
by part, on the meta device.
"""

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
from segkit.adapters import (
    Adapter,
    DepthwiseDilated,
    DynamicPrompts,
    Frequency,
    HighFrequency,
    LoRA,
    Stack,
)
from segkit.adapters.base import Compat
from segkit.decoders import Decoder, FirstMaskDecoder, InrDecoder, QueryDecoder
from segkit.errors import InputError
from segkit.models.build import BUILDERS
from segkit.models.build_sam2 import Sam2Builder
from segkit.models.dvpt_classifier import CLIP_BACKBONE, ClassifierSizes, DvptClassifier
from segkit.models.method_3dsam_adapter import build_3dsam_adapter
from segkit.models.segmenter import Segmenter
from segkit.prompts.encoder import SamPromptEncoder

BuildMethod = Callable[[Compat | None, str], Mapping[str, nn.Module]]
"""From (compat, backbone name) to the modules by part, on the meta device."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method and its usual backbone.

    `build(compat, backbone)` returns its modules by part name, on the meta device and with
    `requires_grad` as in training; "authors" is the released form, where `has_authors_form`, on
    `authors_backbone` if that is another. A parameter that two parts share is counted with the
    first.
    """

    name: str
    summary: str
    source: str
    backbone: str
    build: BuildMethod
    has_authors_form: bool = True
    authors_backbone: str | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a method puts on a backbone; None is what the builder takes by itself."""

    adapter: Callable[..., nn.Module] = Adapter
    prompt_encoder: Callable[..., Any] | None = None
    decoder: Callable[..., Decoder] | None = None


def on_backbone(default: Parts, authors: Parts | None = None) -> BuildMethod:
    """Build a method that is parts on a backbone."""

    def build(compat: Compat | None, backbone: str) -> Mapping[str, nn.Module]:
        return outline(backbone, default if compat is None or authors is None else authors)

    return build


def outline(backbone: str, parts: Parts) -> Mapping[str, nn.Module]:
    """Build the model of any builder without weights.

    Raises:
        InputError: There is no such backbone.
    """
    if backbone not in BUILDERS:
        near = difflib.get_close_matches(backbone, BUILDERS, n=1)
        raise InputError(
            f"there is no backbone {backbone!r}",
            fix=f"did you mean {near[0]!r}?" if near else f"available: {sorted(BUILDERS)}",
        )
    named: dict[str, Any] = {"decoder": parts.decoder, "prompt_encoder": parts.prompt_encoder}
    options = {name: value for name, value in named.items() if value is not None}
    builder = BUILDERS[backbone]
    with torch.device("meta"):
        modules: dict[str, Any] = segmenter_parts(
            builder(checkpoint="random", adapter=parts.adapter, **options)
        )
        if isinstance(builder, Sam2Builder) and parts.decoder is None:
            memory = builder.load_memory("random")
            # the marker of frames without memory is stored with the decoder
            memory.register_parameter("no_mem_embed", modules["decoder"].module.no_mem_embed)
            modules = {"memory": memory, **modules}
    return modules


def segmenter_parts(segmenter: Segmenter) -> dict[str, nn.Module]:
    """Modules of a segmenter by part."""
    # what an adapter puts inside the encoder counts as the adapter's
    return {
        **segmenter.backbone.trained_parts,
        "encoder": segmenter.backbone.encoder,
        "prompt_encoder": segmenter.prompt_encoder,
        "decoder": segmenter.decoder,
    }


_CLASS = partial(QueryDecoder, classes=1)


def _dvpt(compat: Compat | None, backbone: str) -> Mapping[str, nn.Module]:
    """The adapter on any backbone; released is a classifier on one backbone only."""
    if compat is None:
        return outline(backbone, Parts(DynamicPrompts, decoder=_CLASS))
    if backbone != CLIP_BACKBONE:
        raise InputError(
            f"the released form of dvpt does not come on the backbone {backbone!r}",
            fix=f"leave --backbone out, it is {CLIP_BACKBONE}",
        )
    with torch.device("meta"):
        return DvptClassifier(ClassifierSizes()).parts()


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            "3dsam-adapter",
            "SAM lifted to volumes: spatial adapters, windows in three dimensions, point encoder",
            "3DSAM-adapter (2024, arXiv 2306.13465)",
            "sam3d_vit_b",
            build_3dsam_adapter,
        ),
        Method(
            "sam-adapter",
            "high-frequency prompts before each block, decoder trained without prompts",
            "SAM Fails to Segment Anything? SAM-Adapter (2023, arXiv 2304.09148)",
            "sam_vit_b",
            on_backbone(
                Parts(HighFrequency, decoder=_CLASS),
                authors=Parts(
                    partial(HighFrequency, compat="authors"),
                    partial(SamPromptEncoder, trained="no_mask"),
                    FirstMaskDecoder,
                ),
            ),
        ),
        Method(
            "i-medsam",
            "gated low-rank queries and values, a frequency stream, masks as continuous functions",
            "I-MedSAM (2024, arXiv 2311.17081)",
            "sam_vit_b_384",
            on_backbone(
                Parts(
                    partial(Stack, adapters=[partial(LoRA, targets=("q", "v")), Frequency]),
                    decoder=InrDecoder,
                ),
                authors=Parts(
                    partial(
                        Stack,
                        adapters=[
                            partial(LoRA, targets=("q", "v"), gated=True),
                            partial(Frequency, compat="authors"),
                        ],
                    ),
                    partial(SamPromptEncoder, trained="all"),
                    partial(InrDecoder, compat="authors"),
                ),
            ),
        ),
        Method(
            "dvpt",
            "prompts as dynamic queries in shared bottlenecks; released: a classifier on CLIP",
            "DVPT (2025, arXiv 2307.09787)",
            "sam_vit_b",
            _dvpt,
            authors_backbone=CLIP_BACKBONE,
        ),
        Method(
            "dd-sam2",
            "depthwise-dilated convolutions after the first six Hiera blocks, for clips",
            "Depthwise-Dilated Convolutional Adapters for SAM 2 (2025, arXiv 2507.14613)",
            "sam2_tiny",
            on_backbone(
                Parts(partial(DepthwiseDilated, blocks=6)),
                authors=Parts(partial(DepthwiseDilated, blocks=6, compat="authors")),
            ),
        ),
        Method(
            "dilated-sam",
            "the depthwise-dilated adapter of DD-SAM2 on the first half of a SAM encoder's blocks",
            "Depthwise-Dilated Convolutional Adapters for SAM 2 (2025, arXiv 2507.14613)",
            "sam_vit_b",
            on_backbone(Parts(partial(DepthwiseDilated, blocks=6), decoder=_CLASS)),
            has_authors_form=False,
        ),
        Method(
            "lora-sam",
            "low-rank updates of attention weights",
            "LoRA (2021, arXiv 2106.09685)",
            "sam_vit_b",
            on_backbone(Parts(LoRA, decoder=_CLASS)),
            has_authors_form=False,
        ),
        *(
            Method(
                f"stu-net-{size}",
                f"residual 3D U-Net, size {size.upper()}, published for 104 structures",
                "STU-Net (2023, arXiv 2304.06716)",
                f"stu_net_{size}",
                on_backbone(Parts()),
            )
            for size in "sblh"
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

    @classmethod
    def of(cls, modules: Mapping[str, nn.Module]) -> "Count":
        """Count by part; the parts add up to the total."""
        seen: set[int] = set()
        parts, trainable = dict.fromkeys(modules, 0), dict.fromkeys(modules, 0)
        for name, module in modules.items():
            for parameter in module.parameters():
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                parts[name] += parameter.numel()
                trainable[name] += parameter.numel() * parameter.requires_grad
        return cls(sum(parts.values()), sum(trainable.values()), parts, trainable)


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
        InputError: There is no such name, or the method
            has no released form that differs.
    """
    if name in BUILDERS:
        if compat is not None or backbone not in (None, name):
            raise InputError(f"{name} is a backbone; it takes neither --compat nor --backbone")
        count = Count.of(outline(name, Parts()))
        builder = BUILDERS[name]
        return Description(name, name, None, count, builder.summary, builder.source)
    method = find_method(name)
    if compat is not None and not method.has_authors_form:
        raise InputError(
            f"{name} has no released form of its own", fix="leave --compat out", code="compat"
        )
    usual = (compat and method.authors_backbone) or method.backbone
    backbone = backbone or usual
    count = Count.of(method.build(compat, backbone))
    return Description(name, backbone, compat, count, method.summary, method.source)


def find_method(name: str) -> Method:
    """Method of that name.

    Raises:
        InputError: There is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    known = [*METHODS, *BUILDERS]
    near = difflib.get_close_matches(name, known, n=1)
    raise InputError(
        f"there is no method or backbone {name!r}",
        fix=f"did you mean {near[0]!r}?" if near else f"available: {', '.join(known)}",
        code="unknown_model",
    )


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
