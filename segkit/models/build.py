"""Builders: one per model size, all numbers in the `*_modules` of `segkit.backbones`.

    segmenter = segkit.build.sam_vit_b(checkpoint="sam_vit_b_01ec64.pth", adapter=MyAdapter)

Adapter, decoder and prompt encoder arrive as classes or partials, because only the builder knows
the sizes they need.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from typing_extensions import override

from segkit.backbones.checkpoints import load_sam
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import (
    NANO,
    TINY,
    VIT_B,
    VIT_B_384,
    VIT_H,
    VIT_L,
    SamModules,
    SamSizes,
)
from segkit.decoders.mask import MaskDecoder
from segkit.models.build3d import SAM3D_BUILDERS, Sam3dBuilder
from segkit.models.build_sam2 import SAM2_BUILDERS
from segkit.models.builder import Builder, Modules
from segkit.models.sources import Default, fill
from segkit.models.supervised import SUPERVISED, SupervisedBuilder
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import BackboneSpec


@dataclass(frozen=True, slots=True)
class SamBuilder(Builder):
    """Callable that builds a `Segmenter` on SAM."""

    sizes: SamSizes
    weights: Default = "required"
    summary: str = "SAM architecture with its interactive decoder, no adapter"
    source: str = "Segment Anything (2023, arXiv 2304.02643)"

    mask_decoder = MaskDecoder
    prompt_encoder = SamPromptEncoder

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
        modules = SamModules(self.sizes)
        sha256 = fill(
            [modules],
            checkpoint,
            lambda path, sha256: load_sam(modules, path, sha256=sha256),
            name=self.name,
            default=self.weights,
        )
        backbone = SamBackbone(
            modules.image_encoder,
            replace(self.sizes, image_size=image_size),
            adapter,
            trainable=trainable,
            checkpointing=checkpointing,
        )
        return Modules(backbone, modules.prompt_encoder, modules.mask_decoder, sha256)


sam_vit_b = SamBuilder(VIT_B)
sam_vit_b_384 = SamBuilder(VIT_B_384)
sam_vit_l = SamBuilder(VIT_L)
sam_vit_h = SamBuilder(VIT_H)
sam_tiny = SamBuilder(TINY, weights="random")
nano = SamBuilder(NANO, weights="package")

# 2.1 unless the name says 2.0
sam2_tiny = SAM2_BUILDERS["sam2_tiny"]
sam2_small = SAM2_BUILDERS["sam2_small"]
sam2_base_plus = SAM2_BUILDERS["sam2_base_plus"]
sam2_large = SAM2_BUILDERS["sam2_large"]
sam2_0_tiny = SAM2_BUILDERS["sam2_0_tiny"]
sam2_0_small = SAM2_BUILDERS["sam2_0_small"]
sam2_0_base_plus = SAM2_BUILDERS["sam2_0_base_plus"]
sam2_0_large = SAM2_BUILDERS["sam2_0_large"]
sam2_test = SAM2_BUILDERS["sam2_test"]
nano2 = SAM2_BUILDERS["nano2"]

sam3d_vit_b = SAM3D_BUILDERS["sam3d_vit_b"]
sam3d_vit_l = SAM3D_BUILDERS["sam3d_vit_l"]
sam3d_vit_h = SAM3D_BUILDERS["sam3d_vit_h"]
sam3d_nano = SAM3D_BUILDERS["sam3d_nano"]
sam3d_tiny = SAM3D_BUILDERS["sam3d_tiny"]

stu_net_s = SUPERVISED["stu_net_s"]
stu_net_b = SUPERVISED["stu_net_b"]
stu_net_l = SUPERVISED["stu_net_l"]
stu_net_h = SUPERVISED["stu_net_h"]
stu_net_tiny = SUPERVISED["stu_net_tiny"]
unet_2d = SUPERVISED["unet_2d"]
unet_3d = SUPERVISED["unet_3d"]
dynunet_3d = SUPERVISED["dynunet_3d"]

BUILDERS: Mapping[str, Builder | Sam3dBuilder | SupervisedBuilder] = {
    **{builder.name: builder for builder in (
        nano, sam_tiny, sam_vit_b, sam_vit_b_384, sam_vit_l, sam_vit_h, nano2, sam2_tiny,
        sam2_small, sam2_base_plus, sam2_large, sam2_0_tiny, sam2_0_small, sam2_0_base_plus,
        sam2_0_large, sam2_test,
    )},
    **SAM3D_BUILDERS,
    **SUPERVISED,
}  # fmt: skip
"""Builders by name."""
