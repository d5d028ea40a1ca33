"""SAM's own modules in every size, built from `segment_anything.modeling` without weights.

Official key names throughout: a `state_dict` of `SamModules` equals that of the official `Sam`.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from torch import nn


@dataclass(frozen=True, slots=True)
class SamSizes:
    """All numbers of a SAM model; the defaults are ViT-B's.

    `draws_prompts`: its prompt encoder draws marks as mask logits that the masks start from
    (`segkit.prompts.drawing`); SAM itself does not.
    """

    name: str
    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    rel_pos: bool = True
    out_dim: int = 256
    mask_in_chans: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_hidden: int = 256
    draws_prompts: bool = False


VIT_B = SamSizes("sam_vit_b")
VIT_B_384 = replace(VIT_B, name="sam_vit_b_384", image_size=384)
VIT_L = SamSizes("sam_vit_l", embed_dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))
VIT_H = SamSizes("sam_vit_h", embed_dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31))
TINY = SamSizes(
    "sam_tiny", image_size=64, patch_size=8, embed_dim=32, depth=3, heads=2, global_blocks=(1,),
    window=3, out_dim=32, decoder_heads=4, decoder_mlp=64, iou_hidden=32,
)  # fmt: skip
NANO = SamSizes(
    "nano", image_size=256, embed_dim=192, depth=6, heads=6, global_blocks=(2, 5), window=8,
    rel_pos=False, out_dim=128, decoder_heads=8, decoder_mlp=512, iou_hidden=128,
    draws_prompts=True,
)  # fmt: skip
SIZES = {sizes.name: sizes for sizes in (VIT_B, VIT_B_384, VIT_L, VIT_H, TINY, NANO)}


class SamModules(nn.Module):
    """Container with the key layout of the official `Sam`."""

    def __init__(self, sizes: SamSizes) -> None:
        super().__init__()
        cells = sizes.image_size // sizes.patch_size
        self.sizes = sizes
        self.image_encoder = ImageEncoderViT(
            img_size=sizes.image_size,
            patch_size=sizes.patch_size,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.heads,
            mlp_ratio=4,
            out_chans=sizes.out_dim,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=sizes.rel_pos,
            global_attn_indexes=sizes.global_blocks,
            window_size=sizes.window,
        )
        self.prompt_encoder = PromptEncoder(
            embed_dim=sizes.out_dim,
            image_embedding_size=(cells, cells),
            input_image_size=(sizes.image_size, sizes.image_size),
            mask_in_chans=sizes.mask_in_chans,
        )
        self.prompt_encoder.draws_prompts = sizes.draws_prompts
        self.mask_decoder = MaskDecoder(
            transformer_dim=sizes.out_dim,
            transformer=TwoWayTransformer(
                depth=sizes.decoder_depth,
                embedding_dim=sizes.out_dim,
                mlp_dim=sizes.decoder_mlp,
                num_heads=sizes.decoder_heads,
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=sizes.iou_hidden,
        )
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        self.register_buffer("pixel_mean", mean.view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", std.view(-1, 1, 1), persistent=False)
