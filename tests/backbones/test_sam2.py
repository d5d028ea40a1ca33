"""Sam2Backbone: timm's own forward pass as the reference, sizes, features, training."""

import pytest
import torch
from torch import Tensor, nn

from segkit.adapters import Adapter, DepthwiseDilated
from segkit.backbones.sam2 import Sam2Backbone
from segkit.backbones.sam2_modules import NANO2, SAM2_SIZES, Sam2Modules
from segkit.typing import Grid


def image(*size: int) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (32, 64)])
@torch.no_grad()
def test_equals_the_trunk_and_neck_bit_for_bit(size: tuple[int, int]) -> None:
    backbone = Sam2Backbone.tiny(Adapter)
    trunk, x = backbone.encoder.trunk, image(*size)
    stages = trunk.forward_intermediates(backbone.normalise(x), intermediates_only=True)
    fine, middle, coarse = backbone.encoder.neck(stages)
    convs = backbone.high_res
    found = backbone(x, Grid((1, *size))).levels
    for level, expected in zip(found, (convs[0](fine), convs[1](middle), coarse), strict=True):
        assert level.equal(expected)


def test_levels_are_finest_first_and_follow_the_specification() -> None:
    backbone = Sam2Backbone.tiny(Adapter)
    spec = backbone.spec
    levels = backbone(image(64, 96), Grid((1, 64, 96))).levels
    assert [tuple(level.shape[1:]) for level in levels] == [(4, 16, 24), (8, 8, 12), (32, 4, 6)]
    assert (spec.out_dim, spec.out_stride, spec.patch_size) == (32, 16, 32)
    widths = [(block.dim_in, block.dim_out, block.stride) for block in spec.blocks]
    assert widths == [
        (32, 32, 4), (32, 64, 8), (64, 128, 16), (128, 128, 16), (128, 256, 32),
    ]  # fmt: skip


def test_adapters_after_the_last_block_of_a_stage_reach_the_levels() -> None:
    torch.manual_seed(0)
    plain, adapted = Sam2Backbone.tiny(Adapter), Sam2Backbone.tiny(DepthwiseDilated)
    with torch.no_grad():
        for parameter in adapted.adapter.layers[0].parameters():
            parameter.add_(0.1)
    x, grid = image(64, 64), Grid((1, 64, 64))
    assert all(
        not torch.equal(a, b)
        for a, b in zip(plain(x, grid).levels, adapted(x, grid).levels, strict=True)
    )


def test_normalises_with_the_mean_of_imagenet() -> None:
    backbone = Sam2Backbone.tiny(Adapter)
    padded = torch.tensor(backbone.pad_value).view(1, 3, 1, 1)
    assert backbone.normalise(padded).abs().max() < 1e-6
    white = backbone.normalise(torch.ones(1, 3, 1, 1)).flatten()
    assert white.tolist() == pytest.approx([2.248908, 2.428571, 2.640000], abs=1e-5)


def test_trainable_reaches_every_layer_of_the_encoder() -> None:
    torch.manual_seed(0)
    modules = Sam2Modules(SAM2_SIZES["sam2_test"])
    head = modules.sam_mask_decoder
    backbone = Sam2Backbone(
        modules.image_encoder,
        (head.conv_s0, head.conv_s1),
        modules.sizes,
        Adapter,
        trainable=True,
        checkpointing=True,
    )
    levels = backbone(image(64, 64), Grid((1, 64, 64))).levels
    sum(level.square().mean() for level in levels).backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 100), (16, 32)])
def test_refuses_sizes_that_do_not_fit(height: int, width: int) -> None:
    expected = f"must be multiples of 32, got {height} x {width}; pad the image"
    with pytest.raises(ValueError, match=expected):
        Sam2Backbone.tiny(Adapter)(image(height, width), Grid((1, height, width)))


def test_refuses_incomplete_volumes() -> None:
    with pytest.raises(ValueError, match="depth 3 must hold a multiple of that many slices, got 2"):
        Sam2Backbone.tiny(Adapter)(image(64, 64), Grid((3, 64, 64)))


@pytest.mark.parametrize("sizes", SAM2_SIZES.values(), ids=lambda sizes: sizes.name)
def test_global_blocks_stand_inside_their_stage(sizes: object) -> None:
    """Such a block would divide by its window, which is 0, where it pools."""
    starts = {sum(sizes.stages[:stage]) for stage in range(4)}
    assert not starts & set(sizes.global_blocks)
    assert max(sizes.global_blocks) < sum(sizes.stages)
    # the first block of a stage pools the windows of the stage before
    assert not [window for window in sizes.windows[:-1] if window % 2]


def test_nano2_fits_its_place_in_the_package() -> None:
    with torch.device("meta"):
        modules = Sam2Modules(NANO2)
    assert isinstance(modules.image_encoder, nn.Module)
    assert sum(p.numel() for p in modules.parameters()) == 3_467_537
