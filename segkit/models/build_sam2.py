"""Builders of SAM 2: `build.sam2_tiny(...)` for images, `.tracker(...)` of the same for videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from typing_extensions import override

from segkit.backbones.sam2 import Sam2Backbone
from segkit.backbones.sam2_checkpoints import load_sam2
from segkit.backbones.sam2_modules import SAM2_SIZES, Sam2Modules, Sam2Sizes
from segkit.decoders.sam2_mask import Sam2MaskDecoder
from segkit.memory.modules import MemorySizes, Sam2Memory
from segkit.models.builder import Builder, Modules
from segkit.models.sources import Default, fill, require_weights
from segkit.prompts.sam2 import Sam2PromptEncoder
from segkit.typing import BackboneSpec

if TYPE_CHECKING:
    from segkit.models.tracker import Tracker


@dataclass(frozen=True, slots=True)
class Sam2Builder(Builder):
    """Callable that builds a `Segmenter` on SAM 2; without memory, as for single images.

    `memory`: a memory half to fill from the same file; `tracker` sets it.

    Example:
        >>> from segkit.models import build
        >>> tracker = build.sam2_test.tracker(image_size=96)
        >>> tracker.memory.sizes.memory_dim
        16
    """

    sizes: Sam2Sizes
    weights: Default = "required"
    summary: str = "SAM 2 architecture with its interactive decoder, no adapter"
    source: str = "SAM 2: Segment Anything in Images and Videos (2024, arXiv 2408.00714)"
    memory: Sam2Memory | None = None

    mask_decoder = Sam2MaskDecoder
    prompt_encoder = Sam2PromptEncoder

    def tracker(self, **options: Any) -> Tracker:
        """Build a model with its memory; the options are those of the builder.

        The memory is frozen.

        Raises:
            CheckpointError: As the builder, and where a file holds no memory half.
        """
        from segkit.models.tracker import Tracker  # it needs the builders for its own examples

        memory = Sam2Memory(memory_sizes(self.sizes)).requires_grad_(False)
        segmenter = replace(self, memory=memory)(**options)
        return Tracker(segmenter, memory)

    def load_memory(self, checkpoint: str | Path | None = None) -> Sam2Memory:
        """Build the memory half alone, for a segmenter that is there already.

        Raises:
            CheckpointError: As `tracker`.
        """
        require_weights(checkpoint, name=self.name, default=self.weights)
        memory = Sam2Memory(memory_sizes(self.sizes)).requires_grad_(False)
        with torch.device("meta"):
            outline = Sam2Modules(self.sizes)
        self._fill([memory], outline, memory, checkpoint)
        return memory

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
        modules, memory = Sam2Modules(self.sizes), self.memory
        parts = [modules] if memory is None else [modules, memory]
        if memory is None:
            with torch.device("meta"):
                memory = Sam2Memory(memory_sizes(self.sizes))
        sha256 = self._fill(parts, modules, memory, checkpoint)
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

    def _fill(
        self,
        parts: list[Any],
        modules: Sam2Modules,
        memory: Sam2Memory,
        checkpoint: str | Path | None,
    ) -> str:
        return fill(
            parts,
            checkpoint,
            lambda path, sha256: load_sam2(modules, memory, path, sha256=sha256),
            name=self.name,
            default=self.weights,
        )


def memory_sizes(sizes: Sam2Sizes) -> MemorySizes:
    """Sizes of the memory half of a SAM 2."""
    return MemorySizes(
        dim=sizes.out_dim,
        memory_dim=sizes.memory_dim,
        layers=sizes.memory_layers,
        mlp_dim=sizes.memory_mlp,
        pointer_positions=sizes.pointer_positions,
        occlusion_embedding=sizes.occlusion_embedding,
    )


_DEFAULTS: dict[str, Default] = {"sam2_test": "random", "nano2": "package"}
SAM2_BUILDERS = {
    name: Sam2Builder(sizes, _DEFAULTS.get(name, "required")) for name, sizes in SAM2_SIZES.items()
}
