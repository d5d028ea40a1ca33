"""Forward passes of a `SamModules` for training: many images and many objects at once."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn

from segkit.backbones.sam_modules import SamModules
from segkit.prompts.drawing import draw_marks, first_logits


def initialise(modules: SamModules, seed: int) -> None:
    """Draw the linear layers of the encoder from `seed`; places start out comparable.

    The encoder's position embedding starts as sines and cosines. In the decoder's attention
    between prompts and image, queries and keys start with the same projection, so that equal
    places attend to each other from the first step. Image features start faint, so that what
    they show is added to what the prompt alone says.
    """
    torch.manual_seed(seed)
    for module in modules.image_encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    table = modules.image_encoder.pos_embed
    _, rows, cols, dim = table.shape
    quarter = dim // 4
    frequency = torch.exp(-math.log(100.0) * torch.arange(quarter) / quarter)
    down = torch.arange(rows)[:, None] * frequency
    right = torch.arange(cols)[:, None] * frequency
    waves = torch.cat(
        [
            torch.cat([down.sin(), down.cos()], 1)[:, None].expand(rows, cols, -1),
            torch.cat([right.sin(), right.cos()], 1)[None].expand(rows, cols, -1),
        ],
        dim=-1,
    )
    with torch.no_grad():
        table.copy_(0.2 * waves[None])
        modules.image_encoder.neck[-1].weight.fill_(0.2)
        transformer = modules.mask_decoder.transformer
        crossings = [transformer.final_attn_token_to_image]
        for layer in transformer.layers:
            crossings += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
        for attention in crossings:
            attention.q_proj.weight.mul_(2.5)
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.q_proj.bias.zero_()
            attention.k_proj.bias.zero_()


def encode(
    modules: SamModules, pixels: Float[Tensor, "n 3 h w"], corner: Int[Tensor, "n 2"] | None = None
) -> Float[Tensor, "n c rows cols"]:
    """Encode images with values 0 to 255; equal to upstream's encoder, with fused attention.

    Smaller images lie at `corner` (row and column, in cells) of the frame the model is made for.

    Raises:
        ValueError: the sizes ask for relative positions, which fused attention leaves out.
    """
    if modules.sizes.rel_pos:
        raise ValueError(
            f"this recipe has no relative positions, {modules.sizes.name} asks for them"
        )
    encoder = modules.image_encoder
    tokens = encoder.patch_embed((pixels - modules.pixel_mean) / modules.pixel_std)
    tokens = tokens + _window(encoder.pos_embed, corner, tokens.shape[1:3])
    for block in encoder.blocks:
        x = block.norm1(tokens)
        if block.window_size:
            x, padded = window_partition(x, block.window_size)
        x = _attend(block.attn, x)
        if block.window_size:
            x = window_unpartition(x, block.window_size, padded, tokens.shape[1:3])
        tokens = tokens + x
        tokens = tokens + block.mlp(block.norm2(tokens))
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def _window(
    table: Float[Tensor, "1 rows cols dim"],
    corner: Int[Tensor, "n 2"] | None,
    size: tuple[int, int],
) -> Float[Tensor, "n h w dim"]:
    """Part of a table of positions that each image covers; without `corner` all of it."""
    if corner is None:
        return table
    rows = corner[:, 0, None] + torch.arange(size[0])
    cols = corner[:, 1, None] + torch.arange(size[1])
    return table[0][rows[:, :, None], cols[:, None]]


def _attend(attention: nn.Module, x: Float[Tensor, "n rows cols dim"]) -> Tensor:
    n, rows, cols, dim = x.shape
    heads = attention.num_heads
    q, k, v = attention.qkv(x).view(n, rows * cols, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return attention.proj(mixed.transpose(1, 2).reshape(n, rows, cols, dim))


def decode(
    modules: SamModules,
    features: Float[Tensor, "objects c rows cols"],
    points: Float[Tensor, "objects points 2"],
    labels: Int[Tensor, "objects points"],
    masks: Float[Tensor, "objects 1 h w"] | None = None,
    has_mask: Float[Tensor, " objects"] | None = None,
    corner: Int[Tensor, "objects 2"] | None = None,
) -> tuple[Float[Tensor, "objects 4 h w"], Float[Tensor, "objects 4"]]:
    """Logits and predicted IoU of all four masks (0: the single-mask token).

    `points` are XY pixels of the image, `labels` 0, 1, 2 and 3 (box corners) or -1 (padding);
    objects whose `has_mask` is 0 have no earlier mask. `corner` is the place of a smaller image
    in the frame, as in `encode`.
    """
    prompts, decoder = modules.prompt_encoder, modules.mask_decoder
    sparse = _embed_points(prompts, points, labels, corner)
    dense, drawn = _dense(modules, features, points, labels, masks, has_mask)
    count = len(features)
    fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([fixed.expand(count, -1, -1), sparse], dim=1)
    table = prompts.get_dense_pe().permute(0, 2, 3, 1)
    positions = _window(table, corner, features.shape[2:]).permute(0, 3, 1, 2)
    positions = positions.expand(count, -1, -1, -1)
    tokens, source = decoder.transformer(features + dense, positions, tokens)
    upscaled = decoder.output_upscaling(source.transpose(1, 2).view_as(features))
    kernels = torch.stack(
        [mlp(tokens[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    logits = (kernels @ upscaled.flatten(2)).view(count, -1, *upscaled.shape[-2:])
    return logits + drawn, decoder.iou_prediction_head(tokens[:, 0])


def _dense(
    modules: SamModules,
    features: Tensor,
    points: Tensor,
    labels: Tensor,
    masks: Tensor | None,
    has_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Map added to the features, and logits that the masks start from."""
    prompts = modules.prompt_encoder
    if modules.sizes.draws_prompts:
        height, width = (4 * cells for cells in features.shape[2:])
        kji = F.pad(points.flip(-1), (1, 0))
        drawn = draw_marks(
            kji, labels, (height, width), modules.sizes.patch_size / 4, masks, has_mask
        )
        fresh = features.new_zeros(len(features)) if masks is None else has_mask
        return prompts.mask_downscaling(drawn), first_logits(drawn, fresh)
    dense = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(features)
    if masks is not None:
        given = has_mask.view(-1, 1, 1, 1)
        dense = given * prompts.mask_downscaling(masks) + (1 - given) * dense
    return dense, features.new_zeros(())


def _embed_points(
    prompts: nn.Module, points: Tensor, labels: Tensor, corner: Tensor | None
) -> Tensor:
    if corner is not None:
        stride = prompts.input_image_size[0] // prompts.image_embedding_size[0]
        points = points + stride * corner.flip(-1)[:, None]
    embedding = prompts.pe_layer.forward_with_coords(points + 0.5, prompts.input_image_size)
    table = torch.cat(
        [prompts.not_a_point_embed.weight, *(item.weight for item in prompts.point_embeddings)]
    )
    return embedding * (labels >= 0)[..., None] + table[labels + 1]
