"""The model in training: official modules with everything trainable, and their starting point."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segkit.adapters.base import Adapter
from segkit.backbones.checkpoints import load_sam
from segkit.backbones.sam2 import Sam2Backbone
from segkit.backbones.sam2_modules import Sam2Modules, Sam2Sizes
from segkit.backbones.sam_modules import NANO, SamModules
from segkit.decoders.sam2_mask import Sam2MaskDecoder
from segkit.memory import Sam2Memory
from segkit.models.build_sam2 import memory_sizes
from segkit.models.segmenter import Segmenter
from segkit.prompts.sam2 import Sam2PromptEncoder
from segkit.typing import Maps
from tools.nano.export import WEIGHTS


def assemble(modules: Sam2Modules) -> Segmenter:
    """Segmenter on the weights of `modules`, all of them trainable."""
    head: Any = modules.sam_mask_decoder
    segmenter = Segmenter(
        Sam2Backbone(
            modules.image_encoder,
            (head.conv_s0, head.conv_s1),
            modules.sizes,
            Adapter,
            trainable=True,
        ),
        Sam2PromptEncoder(modules.sam_prompt_encoder, trained="all"),
        Sam2MaskDecoder(head, stability_fallback=False),
        trainable="all",
    )
    return segmenter.requires_grad_(True)


def initialise(modules: Sam2Modules, seed: int) -> None:
    """Draw the image encoder from `seed`; prompt encoder and mask decoder are those of `nano`.

    `nano` learned on the same generated pictures what a prompt means, and its decoder has the sizes
    of `nano2`'s; models of other widths draw theirs too. The position embedding starts as sines and
    cosines. Image features start faint, so that what they show is added to what the prompt alone
    says.
    """
    torch.manual_seed(seed)
    encoder: Any = modules.image_encoder
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        encoder.trunk.pos_embed.copy_(0.2 * _waves(*encoder.trunk.pos_embed.shape[1:]))
        nn.init.trunc_normal_(encoder.trunk.pos_embed_window, std=0.02)
        for layer in encoder.neck.convs:
            layer.conv.weight.mul_(0.3)
    if modules.sizes.out_dim == NANO.out_dim:
        _borrow(modules)


def _borrow(modules: Sam2Modules) -> None:
    """Take prompt encoder and mask decoder from the shipped `nano`."""
    nano = SamModules(NANO)
    load_sam(nano, WEIGHTS / "nano.safetensors")
    modules.sam_prompt_encoder.load_state_dict(nano.prompt_encoder.state_dict())
    taken = {
        key.replace("mlp.lin1", "mlp.layers.0").replace("mlp.lin2", "mlp.layers.1"): value
        for key, value in nano.mask_decoder.state_dict().items()
    }
    head: Any = modules.sam_mask_decoder
    report = head.load_state_dict(taken, strict=False)
    new = ("no_mem_embed", "obj_score_token", "pred_obj_score_head", "conv_s0", "conv_s1")
    if report.unexpected_keys or not all(key.startswith(new) for key in report.missing_keys):
        raise ValueError(f"the decoder of nano does not fit: {report}")
    with torch.no_grad():
        last = head.iou_prediction_head.layers[-1]
        # the sigmoid behind it is about 1/2 + x/4
        last.weight.mul_(4)
        last.bias.mul_(4).sub_(2)
        for layer in (head.conv_s0, head.conv_s1):
            layer.weight.mul_(0.3)
        nn.init.normal_(head.obj_score_token.weight, std=0.1)
        head.pred_obj_score_head.layers[-1].bias.fill_(2)  # prompted objects are there


def make_memory(sizes: Sam2Sizes) -> Sam2Memory:
    """Memory half of these sizes; dropout is of no use to a recipe that sees little twice."""
    return Sam2Memory(replace(memory_sizes(sizes), dropout=0.0))


def initialise_memory(memory: Sam2Memory, coarse: Maps, seed: int) -> None:
    """Draw the memory half from `seed`; at first each place looks back at its own neighbourhood.

    `coarse` are features of the coarsest level, whose spread the output of the memory attention
    takes over: the decoder is used to it.
    """
    torch.manual_seed(seed)
    for module in memory.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    attention: Any = memory.memory_attention
    encoder: Any = memory.memory_encoder
    with torch.no_grad():
        attention.norm.weight.fill_(float(coarse.std(1).mean()))
        for layer in attention.layers:
            for part in (layer.self_attn.out_proj, layer.linear2):
                part.weight.mul_(0.2)
            # equal questions and answers, which rotation makes a matter of distance: at first a
            # place looks at what was near it
            for part in (layer.cross_attn_image.q_proj, layer.cross_attn_image.k_proj):
                part.weight.mul_(0.3)
                part.bias.fill_(2.5)
        for block in encoder.fuser.layers:
            block.gamma.fill_(0.1)
        # masks in [0, 1] become logits of about -8 to 8, which the decoder knows as earlier masks
        memory.mask_downsample.weight.fill_(1.0)
        memory.mask_downsample.bias.fill_(-8.0)


def _waves(dim: int, rows: int, cols: int) -> Float[Tensor, "1 dim rows cols"]:
    quarter = dim // 4
    frequency = torch.exp(-math.log(100.0) * torch.arange(quarter) / quarter)[:, None, None]
    down = (frequency * torch.arange(rows)[:, None]).expand(quarter, rows, cols)
    right = (frequency * torch.arange(cols)).expand(quarter, rows, cols)
    waves = torch.cat([down.sin(), down.cos(), right.sin(), right.cos()])
    return torch.cat([waves, waves.new_zeros(dim - 4 * quarter, rows, cols)])[None]
