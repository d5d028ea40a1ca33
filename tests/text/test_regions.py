import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from segkit.text.regions import find_regions, spread
from segkit.text.settings import RegionSettings


def two_blobs():
    """A large, mild region and a small, strong one, which touch nothing."""
    values = np.zeros((40, 60))
    values[5:25, 4:30] = 0.6
    values[30:36, 45:53] = 1.0
    values[33, 50] = 1.01
    return values / values.max()


def test_regions_have_half_open_boxes_and_peaks():
    small, large = find_regions(two_blobs(), RegionSettings(keep=5))
    assert small.box == ((30, 45), (36, 53))
    assert small.peak == (33, 50)
    assert large.box == ((5, 4), (25, 30))
    assert small.confidence > large.confidence > 0
    assert large.share == pytest.approx(20 * 26 / 2400)


def test_the_best_by_confidence_or_by_area_stay():
    assert find_regions(two_blobs())[0].box[0] == (30, 45)
    assert find_regions(two_blobs(), RegionSettings(rank="area"))[0].box[0] == (5, 4)


def test_a_threshold_is_a_share_of_the_range():
    found = find_regions(two_blobs(), RegionSettings(threshold=0.8, keep=5))
    assert [region.box[0] for region in found] == [(30, 45)]


def test_specks_are_noise():
    values = two_blobs()
    values[0, 59] = 1
    assert len(find_regions(values, RegionSettings(keep=9))) == 2
    assert len(find_regions(values, RegionSettings(keep=9, smallest=0))) == 3


def test_corners_connect():
    values = np.zeros((20, 20))
    values[2:5, 2:5] = values[5:8, 5:8] = 1
    assert [region.box for region in find_regions(values)] == [((2, 2), (8, 8))]


def test_a_flat_map_has_no_region():
    assert find_regions(np.full((8, 8), 0.5)) == ()


def test_otsu_splits_as_two_means_do():
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(0.2, 0.05, (64, 64)), 0, 1)
    values[20:40, 20:40] = np.clip(rng.normal(0.8, 0.08, (20, 20)), 0, 1)
    _, label = kmeans2(values.reshape(-1, 1), np.array([[0.0], [1.0]]), minit="matrix")
    (region,) = find_regions(values)
    assert (region.mask == (label.reshape(64, 64) == 1)).mean() > 0.999


def test_maps_are_spread_over_the_pixels():
    maps = torch.zeros(2, 4, 4)
    maps[0, 1, 2] = 3.0
    maps[1] = 7.0
    full = spread(maps, (16, 32))
    assert full.shape == (2, 16, 32)
    assert (full[0].min(), full[0].max()) == (0, 1)
    row, col = divmod(int(full[0].argmax()), 32)
    assert 4 <= row < 8
    assert 16 <= col < 24
    assert not full[1].any()
