import pytest
import torch

from segkit.baselines.unet import DYNUNET_3D, UNET_2D, UNET_3D, UNETS, UNetBody


@pytest.mark.parametrize("name", UNETS)
def test_maps_have_the_resolution_of_the_input(name: str) -> None:
    sizes = UNETS[name]
    body = UNetBody(sizes, in_channels=3)
    x = torch.rand(2, 3, *(32,) * sizes.dimensions)
    (level,) = body(x)
    assert level.shape == (2, sizes.widths[0], *x.shape[2:])
    assert body.divisor == (16,) * sizes.dimensions


@pytest.mark.parametrize("sizes", [UNET_3D, DYNUNET_3D], ids=lambda sizes: sizes.name)
def test_strides_may_differ_by_axis(sizes: object) -> None:
    strides = [(1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2)]
    body = UNetBody(sizes, strides=strides)  # type: ignore[arg-type]
    assert body.divisor == (2, 16, 16)
    assert body(torch.rand(1, 1, 6, 32, 32))[0].shape[2:] == (6, 32, 32)


def test_wrong_strides_and_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="strides must be 4 times 2 numbers"):
        UNetBody(UNET_2D, strides=[(2, 2)])
    with pytest.raises(ValueError, match=r"multiples of \(16, 16\), got \(32, 40\)"):
        UNetBody(UNET_2D, in_channels=3)(torch.rand(1, 3, 32, 40))
