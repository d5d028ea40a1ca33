"""Builders of the volumetric lift: `build.sam3d_vit_b(checkpoint="sam_vit_b_01ec64.pth", ...)`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from segkit.adapters.base import Adapter, Compat, require_compat
from segkit.backbones.checkpoints import load_sam
from segkit.backbones.sam3d import Sam3dBackbone
from segkit.backbones.sam3d_modules import (
    SAM3D_NANO,
    SAM3D_TINY,
    SAM3D_VIT_B,
    SAM3D_VIT_H,
    SAM3D_VIT_L,
    LiftSizes,
)
from segkit.backbones.sam_modules import SamModules
from segkit.decoders.base import Decoder
from segkit.decoders.multilevel3d import MultilevelClasses, MultilevelDecoder
from segkit.models.recipe import BackboneOrigin, Part, Recipe, Trainable
from segkit.models.segmenter import Segmenter
from segkit.models.sources import Default, fill, require_weights
from segkit.prompts.base import PromptEncoder
from segkit.prompts.none import NoPrompts
from segkit.prompts.sampler import PointSampler
from segkit.typing import BackboneSpec


@dataclass(frozen=True, slots=True)
class Sam3dBuilder:
    """Callable that builds a volumetric `Segmenter` on the weights of a SAM.

    `weights`: what `checkpoint=None` means, "required", "random" or "package".
    """

    sizes: LiftSizes
    weights: Default = "required"
    summary: str = "SAM lifted to volumes with its interactive decoder, no adapter"
    source: str = "3DSAM-adapter (2023, arXiv 2306.13465)"

    @property
    def name(self) -> str:
        """Name of the builder and of its backbone."""
        return self.sizes.name

    def __call__(
        self,
        *,
        checkpoint: str | Path | None = None,
        adapter: Callable[[BackboneSpec], nn.Module] = Adapter,
        decoder: Callable[..., Decoder] | None = None,
        prompt_encoder: Callable[..., PromptEncoder] | None = None,
        classes: int | None = None,
        trainable: Trainable = "adapter",
        image_size: int | None = None,
        checkpointing: bool = False,
        upsample: int | None = None,
        grey: Sequence[float] | None = None,
        compat: Compat | None = None,
    ) -> Segmenter:
        """Build a model; `checkpoint` is a file of the SAM it stands on, otherwise as `Builder`.

        `image_size` is the nominal side of a block in voxels; blocks of any size work. `upsample`
        says how often blocks are enlarged before patches are cut, 4 by default; 2 sees blocks of
        twice the side at the same cost, as 3DSAM-adapter does without prompts. `grey` is
        mean and standard deviation the input was trained with, in units of [0, 1], instead of
        SAM's. `compat="authors"` builds lift, prompt encoder and decoder in the released form; the
        adapter says so itself.

        Raises:
            CheckpointError: Weights are missing, damaged, or of another model.
        """
        require_compat(compat)
        require_weights(checkpoint, name=self.name, default=self.weights)
        released: dict[str, Any] = {} if compat is None else {"compat": compat}
        given = {"grey": None if grey is None else list(grey), "upsample": upsample}
        options = released | {name: value for name, value in given.items() if value is not None}
        sizes, modules = self._sizes(image_size, upsample), SamModules(self.sizes.sam)
        sha256 = self._fill(modules, checkpoint)
        # after the weights: the lift starts from them
        backbone = Sam3dBackbone(
            modules.image_encoder,
            sizes,
            adapter,
            trainable=trainable == "all",
            checkpointing=checkpointing,
            grey=grey,
            compat=compat,
        )
        make_decoder = _decoder(decoder, classes, released)
        made = make_decoder(backbone.spec)
        make_prompts = prompt_encoder or _prompts(made, released)
        recipe = Recipe(
            BackboneOrigin(self.name, sha256, sizes.side, options),
            adapter=Part.of(adapter),
            decoder=Part.of(make_decoder),
            prompt=Part.of(make_prompts),
            trainable=trainable,
        )
        prompts = make_prompts() if made.is_automatic else make_prompts(backbone.spec)
        return Segmenter(backbone, prompts, made, trainable=trainable, recipe=recipe)

    def _sizes(self, side: int | None, upsample: int | None) -> LiftSizes:
        patch = self.sizes.sam.patch_size
        if upsample is not None and (upsample < 1 or patch % upsample):
            raise ValueError(f"upsample must divide the patch size {patch}, got {upsample}")
        sizes = replace(self.sizes, upsample=upsample or self.sizes.upsample)
        stride = sizes.stride
        if side is not None and (side < stride or side % stride):
            raise ValueError(f"image_size must be a multiple of the stride {stride}, got {side}")
        return replace(sizes, side=side or self.sizes.side)

    def _fill(self, modules: SamModules, checkpoint: str | Path | None) -> str:
        return fill(
            [modules],
            checkpoint,
            lambda path, sha256: load_sam(modules, path, sha256=sha256),
            name=self.sizes.sam.name,
            default=self.weights,
        )


def _decoder(
    decoder: Callable[..., Decoder] | None, classes: int | None, released: dict[str, Any]
) -> Callable[..., Decoder]:
    """Choose the decoder by what was asked for."""
    if classes is None:
        return decoder or (
            partial(MultilevelDecoder, **released) if released else MultilevelDecoder
        )
    return partial(decoder or partial(MultilevelClasses, **released), classes=classes)


def _prompts(decoder: Decoder, released: dict[str, Any]) -> Callable[..., PromptEncoder]:
    if decoder.is_automatic:
        return NoPrompts
    return partial(PointSampler, **released) if released else PointSampler


SAM3D_BUILDERS = {
    "sam3d_nano": Sam3dBuilder(SAM3D_NANO, weights="package"),
    "sam3d_tiny": Sam3dBuilder(SAM3D_TINY, weights="random"),
    "sam3d_vit_b": Sam3dBuilder(SAM3D_VIT_B),
    "sam3d_vit_l": Sam3dBuilder(SAM3D_VIT_L),
    "sam3d_vit_h": Sam3dBuilder(SAM3D_VIT_H),
}
