import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.adapters import Adapter, Spatial
from segkit.backbones.sam3d import Sam3dBackbone
from segkit.backbones.sam3d_modules import LIFT_SIZES, SAM3D_TINY
from segkit.backbones.sam_modules import SamModules
from segkit.backbones.windows3d import WindowPlan, window_attention
from segkit.typing import Grid


def volume(count: int = 1, depth: int = 8, height: int = 32, width: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count * depth, 3, height, width, generator=generator)


def backbone(**options: object) -> Sam3dBackbone:
    torch.manual_seed(0)
    encoder = SamModules(SAM3D_TINY.sam).image_encoder
    for parameter in encoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Sam3dBackbone(encoder, SAM3D_TINY, Adapter, **options)


def test_sizes_cover_sam_and_nano() -> None:
    stride = {name: sizes.stride for name, sizes in LIFT_SIZES.items()}
    assert set(stride.values()) == {4}
    assert LIFT_SIZES["sam3d_vit_b"].tapped == (2, 5, 8, 11)
    assert LIFT_SIZES["sam3d_vit_h"].tapped == (7, 15, 23, 31)
    assert LIFT_SIZES["sam3d_nano"].tapped == (1, 2, 4, 5)


def test_embedding_equals_enlarging_and_cutting_patches() -> None:
    model = backbone(compat="authors").double()  # random slice embedding
    image = model.normalise(volume(2).double())
    blocks = image.unflatten(0, (2, 8))
    large = F.interpolate(blocks.transpose(1, 2), scale_factor=2, mode="trilinear")
    slices = large.transpose(1, 2).flatten(0, 1)
    patches = model.encoder.patch_embed.proj(slices).unflatten(0, (2, 16))
    expected = model.lift.slice_embed(patches.transpose(1, 2)).permute(0, 2, 3, 4, 1)
    torch.testing.assert_close(model._embed(blocks), expected)


def test_position_embedding_is_pooled_as_released() -> None:
    model = backbone()
    pooled = F.avg_pool2d(model.encoder.pos_embed.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    found = model._positions(3, (8, 8))
    torch.testing.assert_close(found[:, 0], pooled)


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 9, 16), (1, 3, 4), (12, 4, 7)])
@pytest.mark.parametrize("is_shifted", [False, True])
def test_windows_cover_any_grid_once(shape: tuple[int, int, int], is_shifted: bool) -> None:
    plan = WindowPlan.of(shape, 4, is_shifted=is_shifted)
    x = torch.arange(2 * torch.Size(shape).numel()).float().view(2, *shape, 1)
    windows = plan.split(x)
    assert windows.shape[1] <= 64
    assert torch.equal(plan.join(windows), x)


def test_shifted_attention_equals_a_mask() -> None:
    model = backbone().double()
    attn, table = model.encoder.blocks[0].attn, model.lift.blocks[0].rel_pos_d
    plan = WindowPlan.of((6, 8, 9), 4, is_shifted=True)
    x = torch.randn(2, 6, 8, 9, 32, dtype=torch.float64)
    found = window_attention(attn, x, plan, table, plan.codes(x.device))
    torch.testing.assert_close(found, masked_attention(attn, x, plan, table), rtol=1e-6, atol=1e-8)


def masked_attention(attn: object, x: Tensor, plan: WindowPlan, table: Tensor) -> Tensor:
    """The same with the tokens x tokens matrices that fused attention avoids."""
    codes, windows = plan.codes(x.device).double(), plan.split(x)
    n, tokens, _ = windows.shape
    qkv = attn.qkv(windows).view(n, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    sides = [axis.size for axis in plan.axes]
    cells = q.unflatten(2, sides)
    d, h, w = plan.tables((table, attn.rel_pos_h, attn.rel_pos_w))
    bias = (
        torch.einsum("nadhwc,dkc->nadhwk", cells, d)[..., :, None, None]
        + torch.einsum("nadhwc,hkc->nadhwk", cells, h)[..., None, :, None]
        + torch.einsum("nadhwc,wkc->nadhwk", cells, w)[..., None, None, :]
    )
    scores = scores + bias.flatten(2, 4).flatten(3, 5)
    same = (codes @ codes.transpose(1, 2)) == sum(c is not None for c in regions(plan))
    scores = scores.masked_fill(~same.repeat(n // len(same), 1, 1)[:, None], -torch.inf)
    out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return plan.join(attn.proj(out))


def regions(plan: WindowPlan) -> list[Tensor | None]:
    return [axis.regions(torch.device("cpu")) for axis in plan.axes]


def test_features_are_volumes_of_any_depth_and_number() -> None:
    model = backbone()
    for depth in (1, 3, 8):
        features = model(volume(2, depth), Grid((depth, 32, 48)))
        cells = -(-depth // 4)
        assert [tuple(level.shape) for level in features.levels] == [
            (2, 1, 2 * cells, 16, 24), *[(2, 32, cells, 8, 12)] * 4,
        ]  # fmt: skip


def test_starts_from_the_weights_of_sam() -> None:
    model = backbone()
    constant = volume(1, 1).expand(8, -1, -1, -1)
    embedded = model._embed(model.normalise(constant)[None])
    torch.testing.assert_close(embedded[:, 0], embedded[:, 1])
    large = F.interpolate(model.normalise(constant[:1]), scale_factor=2, mode="bilinear")
    expected = model.encoder.patch_embed.proj(large).permute(0, 2, 3, 1)
    torch.testing.assert_close(embedded[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_only_the_lift_and_the_adapter_are_trained() -> None:
    model = Sam3dBackbone.tiny(Spatial).train()
    features = model(volume(), Grid((8, 32, 48)))
    sum(level.square().mean() for level in features.levels).backward()
    assert not [name for name, p in model.encoder.named_parameters() if p.grad is not None]
    idle = [name for name, p in model.lift.named_parameters() if p.grad is None]
    assert idle == []


def test_grey_values_replace_the_colours_of_sam() -> None:
    model = backbone(grey=(0.4, 0.2))
    assert model.pad_value == (0.4,) * 3
    torch.testing.assert_close(
        model.normalise(torch.full((1, 3, 4, 4), 0.6)), torch.ones(1, 3, 4, 4)
    )


def test_misuse_is_refused() -> None:
    model = backbone()
    with pytest.raises(ValueError, match="must be multiples of 4, got 30 x 48"):
        model(volume(height=30), Grid((8, 30, 48)))
    with pytest.raises(ValueError, match="depth 5 must hold a multiple"):
        model(volume(), Grid((5, 32, 48)))
    with pytest.raises(ValueError, match="grey must be"):
        backbone(grey=(0.5, 0.0))
    with pytest.raises(ValueError, match="compat must be None or 'authors'"):
        backbone(compat="paper")
