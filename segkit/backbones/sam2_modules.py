"""SAM 2's image half in every size, without weights.

Key names are the official ones, with one exception: the trunk is timm's, whose layers of the block
MLP have names of their own (`segkit.backbones.sam2_checkpoints` translates).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.mask_decoder import MLP
from torch import nn
from typing_extensions import override

from segkit.typing import Maps

_COARSEST = 32  # input pixels per token of the last stage
_FEATURES = 16  # input pixels per cell of the coarsest level a decoder sees
_TOP_DOWN = (2, 3)  # stages whose output takes part in the top-down path


@dataclass(frozen=True, slots=True)
class Sam2Sizes:
    """All numbers of a SAM 2 model; the defaults are those of the tiny 2.1 model.

    `stages`: blocks per stage. Width and heads double from stage to stage. `windows`: side of the
    attention windows per stage, in tokens; `global_blocks` attend to everything (never the first of
    a stage). `background`: native size of the position embedding. `pointer_positions` and
    `occlusion_embedding` are the two parts of the memory that 2.1 has and 2.0 lacks.
    """

    name: str
    image_size: int = 1024
    embed_dim: int = 96
    heads: int = 1
    stages: tuple[int, ...] = (1, 2, 7, 2)
    global_blocks: tuple[int, ...] = (5, 7, 9)
    windows: tuple[int, ...] = (8, 4, 14, 7)
    background: tuple[int, int] = (7, 7)
    out_dim: int = 256
    mask_in_chans: int = 16
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    memory_dim: int = 64
    memory_layers: int = 4
    memory_mlp: int = 2048
    pointer_positions: bool = True
    occlusion_embedding: bool = True

    @property
    def patch_size(self) -> int:
        """Height and width of images must be multiples of it: tokens of the last stage."""
        return _COARSEST

    @property
    def stride(self) -> int:
        """Input pixels per cell of the coarsest feature level."""
        return _FEATURES

    @property
    def widths(self) -> tuple[int, ...]:
        """Token width of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.stages)))


def _pair(size: str, **numbers: Any) -> tuple[Sam2Sizes, Sam2Sizes]:
    """Version 2.0 and version 2.1 of one size."""
    first = Sam2Sizes(
        f"sam2_0_{size}", pointer_positions=False, occlusion_embedding=False, **numbers
    )
    return first, Sam2Sizes(f"sam2_{size}", **numbers)


SAM2_0_TINY, SAM2_1_TINY = _pair("tiny")
SAM2_0_SMALL, SAM2_1_SMALL = _pair("small", stages=(1, 2, 11, 2), global_blocks=(7, 10, 13))
SAM2_0_BASE_PLUS, SAM2_1_BASE_PLUS = _pair(
    "base_plus", embed_dim=112, heads=2, stages=(2, 3, 16, 3), global_blocks=(12, 16, 20),
    background=(14, 14),
)  # fmt: skip
SAM2_0_LARGE, SAM2_1_LARGE = _pair(
    "large", embed_dim=144, heads=2, stages=(2, 6, 36, 4), global_blocks=(23, 33, 43),
    windows=(8, 4, 16, 8),
)  # fmt: skip
SAM2_TEST = Sam2Sizes(
    "sam2_test", image_size=64, embed_dim=32, stages=(1, 1, 2, 1), global_blocks=(3,),
    windows=(4, 4, 4, 2), background=(3, 3), out_dim=32, decoder_heads=4, decoder_mlp=64,
    memory_dim=16, memory_layers=2, memory_mlp=64,
)  # fmt: skip
NANO2 = Sam2Sizes(
    "nano2", image_size=256, embed_dim=32, stages=(1, 2, 5, 2), global_blocks=(5, 7),
    windows=(8, 4, 8, 8), background=(8, 8), out_dim=128, decoder_mlp=512, memory_layers=2,
    memory_mlp=512,
)  # fmt: skip
SAM2_SIZES = {
    sizes.name: sizes
    for sizes in (
        SAM2_1_TINY, SAM2_1_SMALL, SAM2_1_BASE_PLUS, SAM2_1_LARGE,
        SAM2_0_TINY, SAM2_0_SMALL, SAM2_0_BASE_PLUS, SAM2_0_LARGE,
        SAM2_TEST, NANO2,
    )
}  # fmt: skip


class Sam2Neck(nn.Module):
    """Feature pyramid: one projection per stage, and a sum from the last stage to the third.

    Source: "SAM 2" (Ravi et al., 2024), appendix D.1. The position codes that the official neck
    also returns belong to who uses them.
    """

    convs: Any  # coarsest first, as in official files

    def __init__(self, widths: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Sequential() for _ in widths)
        for layer, width in zip(self.convs, reversed(widths), strict=True):
            layer.add_module("conv", nn.Conv2d(width, out_dim, 1))

    @override
    def forward(self, stages: Sequence[Maps]) -> tuple[Maps, ...]:
        """Return one map per stage but the last, finest first."""
        levels: list[Maps] = []
        above: Maps | None = None
        for index in reversed(range(len(stages))):
            level = self.convs[len(stages) - 1 - index](stages[index])
            if index in _TOP_DOWN and above is not None:
                level = level + F.interpolate(above, scale_factor=2.0, mode="nearest")
            above = level
            levels.append(level)
        return tuple(reversed(levels[1:]))


class Sam2ImageEncoder(nn.Module):
    """Hiera trunk of timm and the neck."""

    trunk: Any  # timm's HieraDet
    neck: Sam2Neck

    def __init__(self, sizes: Sam2Sizes) -> None:
        super().__init__()
        # timm takes two seconds to import
        from timm.models.hieradet_sam2 import HieraDet

        self.trunk = HieraDet(
            num_classes=0,
            embed_dim=sizes.embed_dim,
            num_heads=sizes.heads,
            stages=sizes.stages,
            global_att_blocks=sizes.global_blocks,
            window_spec=sizes.windows,
            global_pos_size=sizes.background,
            weight_init="skip",
        )
        self.trunk.head = nn.Identity()  # a classifier's norm, which no official file has
        self.neck = Sam2Neck(sizes.widths, sizes.out_dim)


class Sam2MaskHead(MaskDecoder):
    """Weights of the mask decoder; `segkit.decoders.Sam2MaskDecoder` computes with them.

    SAM's own, and in addition: `conv_s0` and `conv_s1`, which narrow the two fine levels, a token
    that asks whether the object is visible, and `no_mem_embed`, which marks features that have seen
    no memory (a top-level entry of official files).
    """

    transformer: Any

    def __init__(self, sizes: Sam2Sizes) -> None:
        dim = sizes.out_dim
        transformer = TwoWayTransformer(2, dim, sizes.decoder_heads, sizes.decoder_mlp)
        for layer in transformer.layers:
            layer.mlp = MLP(dim, sizes.decoder_mlp, dim, 2)
        super().__init__(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=dim)
        self.iou_prediction_head.sigmoid_output = True
        self.obj_score_token = nn.Embedding(1, dim)
        self.pred_obj_score_head = MLP(dim, dim, 1, 3)
        self.conv_s0 = nn.Conv2d(dim, dim // 8, 1)
        self.conv_s1 = nn.Conv2d(dim, dim // 4, 1)
        self.no_mem_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))


class Sam2Modules(nn.Module):
    """The image half of a SAM 2; the memory half is `segkit.memory`."""

    def __init__(self, sizes: Sam2Sizes) -> None:
        super().__init__()
        cells = sizes.image_size // sizes.stride
        self.sizes = sizes
        self.image_encoder = Sam2ImageEncoder(sizes)
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=sizes.out_dim,
            image_embedding_size=(cells, cells),
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=sizes.mask_in_chans,
        )
        self.sam_mask_decoder = Sam2MaskHead(sizes)
