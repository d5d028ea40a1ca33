"""Builders: one per model size, all numbers in `segkit.backbones.sam_modules`.

    segmenter = segkit.build.sam_vit_b(checkpoint="sam_vit_b_01ec64.pth", adapter=MyAdapter)

Adapter, decoder and prompt encoder arrive as classes or partials, because only the builder knows
the sizes they need.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch
from torch import nn

from segkit.adapters.base import Adapter
from segkit.backbones.checkpoints import content_sha256, load_sam
from segkit.backbones.sam import SamBackbone
from segkit.backbones.sam_modules import NANO, TINY, VIT_B, VIT_H, VIT_L, SamModules, SamSizes
from segkit.decoders.base import Decoder
from segkit.decoders.mask import MaskDecoder
from segkit.decoders.query import QueryDecoder
from segkit.errors import CheckpointError
from segkit.models.recipe import BackboneOrigin, Part, Recipe, Trainable
from segkit.models.segmenter import Segmenter
from segkit.prompts.base import PromptEncoder
from segkit.prompts.encoder import SamPromptEncoder
from segkit.typing import BackboneSpec


@dataclass(frozen=True, slots=True)
class SamBuilder:
    """Callable that builds a `Segmenter` of one size.

    `weights`: what `checkpoint=None` means, "required", "random" or "package".
    """

    sizes: SamSizes
    weights: str = "required"
    summary: str = "SAM architecture with its interactive decoder, no adapter"
    source: str = "Segment Anything (2023, arXiv 2304.02643)"

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
        prompt_encoder: Callable[..., PromptEncoder] = SamPromptEncoder,
        classes: int | None = None,
        trainable: Trainable = "adapter",
        image_size: int | None = None,
        checkpointing: bool = False,
    ) -> Segmenter:
        """Build a model.

        `checkpoint` is a file of weights, or "random" (or "random:SEED") for tests; under
        `torch.device("meta")` nothing is filled in. With `classes`
        the model is automatic and segments that many classes besides the background; without, it
        is interactive. `image_size` is the side of the input in pixels the adapter should expect,
        the training size of the weights by default; any multiple of the patch size works.
        `checkpointing` trades time for memory in training.

        Raises:
            CheckpointError: Weights are missing, damaged, or of another model.
        """
        source = self._source(checkpoint)
        modules = SamModules(self.sizes)
        sha256 = _fill(modules, source)
        backbone = SamBackbone(
            modules.image_encoder,
            replace(self.sizes, image_size=self._image_size(image_size)),
            adapter,
            trainable=trainable == "all",
            checkpointing=checkpointing,
        )
        make_decoder = _decoder(decoder, classes)
        recipe = Recipe(
            BackboneOrigin(self.name, sha256, backbone.spec.image_size),
            adapter=Part.of(adapter),
            decoder=Part.of(make_decoder),
            prompt=Part.of(prompt_encoder),
            trainable=trainable,
        )
        return Segmenter(
            backbone,
            prompt_encoder(modules.prompt_encoder),
            make_decoder(modules.mask_decoder),
            trainable=trainable,
            recipe=recipe,
        )

    def _image_size(self, image_size: int | None) -> int:
        side, patch = image_size or self.sizes.image_size, self.sizes.patch_size
        if side < patch or side % patch:
            raise ValueError(f"image_size must be a multiple of the patch size {patch}, got {side}")
        return side

    def _source(self, checkpoint: str | Path | None) -> str | Path | None:
        """Say where weights come from; None is the package."""
        if checkpoint is None and self.weights == "required":
            raise CheckpointError(
                f"{self.name} needs weights, got checkpoint=None",
                fix=f"pass checkpoint=PATH; `segkit models info {self.name}` says where they are",
                code="no_weights",
            )
        return "random" if checkpoint is None and self.weights == "random" else checkpoint


sam_vit_b = SamBuilder(VIT_B)
sam_vit_l = SamBuilder(VIT_L)
sam_vit_h = SamBuilder(VIT_H)
sam_tiny = SamBuilder(TINY, weights="random")
nano = SamBuilder(NANO, weights="package")

# tokens and the frequencies of the position code; the rest is scaled by its fan-in
_UNIT_SCALE = re.compile(r"((embed|embeddings\.\d+|tokens?)\.weight|gaussian_matrix)$")

BUILDERS = {builder.name: builder for builder in (nano, sam_tiny, sam_vit_b, sam_vit_l, sam_vit_h)}


def _decoder(decoder: Callable[..., Decoder] | None, classes: int | None) -> Callable[..., Decoder]:
    """Choose the decoder by what was asked for."""
    if classes is None:
        return decoder or MaskDecoder
    return partial(decoder or QueryDecoder, classes=classes)


def _fill(modules: SamModules, source: str | Path | None) -> str:
    """Load or draw the weights and return their sha256."""
    if next(modules.parameters()).is_meta:
        return ""
    if source is None:
        return _load_package_weights(modules)
    kind, _, seed = str(source).partition(":")
    if kind == "random" and (not seed or seed.isdecimal()):
        return _randomise(modules, int(seed or 0))
    return load_sam(modules, source)


def _load_package_weights(modules: SamModules) -> str:
    """Load weights shipped in the package and compare them with their recorded hash."""
    name = modules.sizes.name
    folder = Path(str(files("segkit"))) / "weights"
    weights, card = folder / f"{name}.safetensors", folder / f"{name}.json"
    for path in (weights, card):
        if not path.is_file():
            raise CheckpointError(
                f"this installation of segkit lacks the weights of {name!r}",
                path=path,
                fix="install a released wheel, or pass checkpoint=PATH",
                code="no_weights",
            )
    expected = json.loads(card.read_text(encoding="utf-8"))["sha256"]
    return load_sam(modules, weights, sha256=expected)


def _randomise(modules: SamModules, seed: int) -> str:
    """Draw all weights from `seed`, the same on every run, and return their sha256."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(modules.state_dict().items()):
            if tensor.ndim > 1 or name.endswith("bias"):
                fan_in = 2500 if tensor.ndim == 1 else tensor[0].numel()
                scale = 1.0 if _UNIT_SCALE.search(name) else fan_in**-0.5
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
    return content_sha256(modules.state_dict())
