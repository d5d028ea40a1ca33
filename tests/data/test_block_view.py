"""Blocks of a volume at the spacing of the model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segkit.data.block_view import BlockView
from segkit.data.preprocess import InputSpec, Intensity
from segkit.data.volume import Volume
from segkit.geometry import Geometry, Triple

SHAPE: Triple = (6, 20, 24)
BYTES = Intensity("full")


def a_volume(seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)
    affine = np.diag([0.8, -0.9, 3.0, 1.0])
    return Volume(array, Geometry(SHAPE, affine))


def a_spec(
    spacing_mm: tuple[float, float, float] | None, intensity: Intensity = BYTES
) -> InputSpec:
    channels = "windows" if intensity.windows else "repeat"
    return InputSpec(3, 8, channels, intensity, patch=(8, 8, 8), spacing_mm=spacing_mm)


def whole(view: BlockView) -> torch.Tensor:
    return view.block((0, 0, 0), view.shape, view.shape)


def test_whole_volume_is_interpolated_with_equal_extent() -> None:
    volume = a_volume()
    view = BlockView(volume, a_spec((1.5, 0.6, 0.5)))
    assert view.shape == (12, 30, 38)
    assert view.spacing_mm == pytest.approx((1.5, 0.6, 0.8 * 24 / 38))
    turned = torch.from_numpy(volume.array[:, ::-1].copy()).float() / 255  # RAS
    expected = F.interpolate(turned[None, None], view.shape, mode="trilinear")[0]
    torch.testing.assert_close(whole(view), expected, rtol=0, atol=1e-5)


def test_coarser_blocks_are_averaged_as_torch_does() -> None:
    volume = a_volume()
    view = BlockView(volume, a_spec((3.0, 2.7, 2.4)))
    turned = torch.from_numpy(volume.array[:, ::-1].copy()).float()[:, None] / 255
    expected = F.interpolate(turned, view.shape[1:], mode="bilinear", antialias=True)[:, 0]
    torch.testing.assert_close(whole(view)[0], expected, rtol=0, atol=1e-5)


def test_part_of_the_volume_is_that_part_of_the_whole() -> None:
    view = BlockView(a_volume(), a_spec((1.5, 0.6, 0.5)))
    part = view.block((2, 5, 7), (10, 13, 15), (8, 8, 8))
    torch.testing.assert_close(part, whole(view)[:, 2:10, 5:13, 7:15])


def test_outside_is_zero_and_the_rest_keeps_its_place() -> None:
    view = BlockView(a_volume(), a_spec(None))
    block = view.block((-2, -3, 20), (6, 5, 28), (8, 8, 8))
    assert (block[:, :2] == 0).all()
    assert (block[:, :, :3] == 0).all()
    assert (block[..., 4:] == 0).all()
    torch.testing.assert_close(block[:, 2:, 3:, :4], whole(view)[:, :6, :5, 20:24])


def test_block_far_outside_is_zero() -> None:
    view = BlockView(a_volume(), a_spec(None))
    assert (view.block((50, 50, 50), (58, 58, 58), (8, 8, 8)) == 0).all()
    assert (view.block((-58, -58, -58), (-50, -50, -50), (8, 8, 8)) == 0).all()


def test_points_go_to_the_voxel_that_shows_them() -> None:
    volume = a_volume()
    array = np.zeros_like(volume.array)
    array[4, 3, 17] = 255
    view = BlockView(Volume(array, volume.geometry), a_spec((3.0, 0.9, 0.8)))
    shown = np.argwhere(whole(view)[0].numpy() == 1)
    np.testing.assert_allclose(view.points_to_model(np.array([[4.0, 3.0, 17.0]])), shown)
    assert view.restore(whole(view)[0].numpy())[4, 3, 17] == 1


def test_three_windows_are_three_channels() -> None:
    windows = Intensity("window", windows=((0, 100), (50, 150), (100, 255)))
    volume = a_volume()
    block = whole(BlockView(volume, a_spec(None, windows)))
    turned = volume.array[:, ::-1].astype(np.float32)
    for channel, (low, high) in zip(block.numpy(), windows.windows, strict=True):
        np.testing.assert_allclose(channel, ((turned - low) / (high - low)).clip(0, 1), atol=1e-6)
