"""Builders of SAM 2: `build.sam2_tiny(...)` for images, `.tracker(...)` of the same for videos."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from typing_extensions import override

from segkit.backbones.sam2 import Sam2Backbone
from segkit.backbones.sam2_checkpoints import load_sam2
from segkit.backbones.sam2_modules import SAM2_SIZES, Sam2Modules, Sam2Sizes
from segkit.decoders.sam2_mask import Sam2MaskDecoder
from segkit.models.builder import Builder, Modules
from segkit.models.sources import Default, fill
from segkit.prompts.sam2 import Sam2PromptEncoder
from segkit.typing import BackboneSpec


@dataclass(frozen=True, slots=True)
class Sam2Builder(Builder):
    """Callable that builds a `Segmenter` on SAM 2; without memory, as for single images."""

    sizes: Sam2Sizes
    weights: Default = "required"
    summary: str = "SAM 2 architecture with its interactive decoder, no adapter"
    source: str = "SAM 2: Segment Anything in Images and Videos (2024, arXiv 2408.00714)"

    mask_decoder = Sam2MaskDecoder
    prompt_encoder = Sam2PromptEncoder

    @override
    def modules(
        self,
        checkpoint: str | Path | None,
        adapter: Callable[[BackboneSpec], nn.Module],
        *,
        image_size: int,
        trainable: bool,
        checkpointing: bool,
    ) -> Modules:
        modules = Sam2Modules(self.sizes)
        sha256 = fill(
            [modules],
            checkpoint,
            lambda path, sha256: load_sam2(modules, path, sha256=sha256),
            name=self.name,
            default=self.weights,
        )
        head = modules.sam_mask_decoder
        backbone = Sam2Backbone(
            modules.image_encoder,
            (head.conv_s0, head.conv_s1),
            replace(self.sizes, image_size=image_size),
            adapter,
            trainable=trainable,
            checkpointing=checkpointing,
        )
        return Modules(backbone, modules.sam_prompt_encoder, head, sha256)


_DEFAULTS: dict[str, Default] = {"sam2_test": "random", "nano2": "package"}
SAM2_BUILDERS = {
    name: Sam2Builder(sizes, _DEFAULTS.get(name, "required")) for name, sizes in SAM2_SIZES.items()
}
