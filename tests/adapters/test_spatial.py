import pytest
import torch
from torch import nn

from segkit.adapters import Spatial
from segkit.adapters.spatial import SpatialBottleneck
from segkit.backbones.sam import SamBackbone, sam_spec
from segkit.backbones.sam_modules import SIZES
from segkit.typing import BackboneSpec, BlockSpec, Grid


def volume(depth: int = 4) -> torch.Tensor:
    return torch.rand(depth, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def awake(adapter: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("name", "count"), [("sam_vit_b", 7_220_736), ("sam_vit_l", 25_546_752)])
def test_parameters(name: str, count: int) -> None:
    with torch.device("meta"):
        adapter = Spatial(sam_spec(SIZES[name]))
    assert sum(p.numel() for p in adapter.parameters()) == count


def test_slices_see_their_neighbours_through_the_grid() -> None:
    backbone = SamBackbone.tiny(Spatial)
    awake(backbone.adapter)
    image = volume()
    changed = image.clone()
    changed[3] += 0.5
    together = Grid((4, 64, 64))
    before, after = (backbone(x, together).levels[0] for x in (image, changed))
    # three blocks reach three slices
    assert not torch.equal(before[0], after[0])
    before, after = (backbone(x, Grid((1, 64, 64))).levels[0] for x in (image, changed))
    assert torch.equal(before[:3], after[:3])


def test_depth_is_the_first_axis_of_the_kernel() -> None:
    layer = SpatialBottleneck(2, 2)
    with torch.no_grad():
        layer.down.weight.copy_(torch.eye(2))
        layer.up.weight.copy_(torch.eye(2))
        layer.conv.weight.zero_()
        layer.conv.weight[:, :, 0, 1, 1] = 1
        for part in (layer.down, layer.conv, layer.up):
            part.bias.zero_()
    tokens = torch.rand(6, 3, 3, 2)
    moved = layer(tokens, 3) - tokens
    assert torch.allclose(moved[1:3], tokens[:2], atol=1e-6)
    assert not moved[[0, 3]].any()  # the first slice of each volume has none before it


def test_sites_differ_where_hiera_widens() -> None:
    blocks = (BlockSpec(8, 8, 4), BlockSpec(8, 16, 8))
    spec = BackboneSpec("hiera", 32, 4, blocks, 16, 8)
    assert Spatial(spec).layers[1].down.in_features == 8
    assert Spatial(spec, site="after").layers[1].down.in_features == 16


def test_the_released_form_only_adds() -> None:
    layer = SpatialBottleneck(8, 4, compat="authors")
    tokens = torch.randn(4, 5, 5, 8)
    change = layer(tokens, 2) - tokens
    assert (change >= 0).all()
    assert change.any()


def test_options_are_checked() -> None:
    spec = sam_spec(SIZES["sam_tiny"])
    with pytest.raises(ValueError, match=r"ratio must be in \(0, 1\], got 2"):
        Spatial(spec, ratio=2)
    with pytest.raises(ValueError, match=r"site must be one of .*got 'inside'"):
        Spatial(spec, site="inside")
