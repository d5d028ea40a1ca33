"""Generated pictures."""

import numpy as np
import pytest

from segkit.data.phantom import phantom_picture
from segkit.data.phantom.fields import blur, coarse_matrix, smooth_field, spline_matrix

SEEDS = range(40)


@pytest.fixture(scope="module")
def pictures():
    return [phantom_picture((11, seed), 96) for seed in SEEDS]


def test_a_seed_decides_the_picture():
    first, again, other = (phantom_picture(seed, 96) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.image != other.image).any()


def test_every_region_is_drawn(pictures):
    for picture in pictures:
        regions = np.unique(picture.labels)
        assert set(range(1, len(picture.parents))) <= set(regions.tolist())
        assert regions.max() < len(picture.parents) == len(picture.kinds)


def test_parents_come_first(pictures):
    for picture in pictures:
        assert (picture.parents[1:] < np.arange(1, len(picture.parents))).all()


def test_targets_are_regions_alone_and_with_their_content(pictures):
    nested = 0
    for picture in pictures:
        for members in picture.targets():
            mask = picture.mask(members)
            assert mask.any()
            outside = set(members) - {members[0]}
            nested += bool(outside)
            for region in outside:
                parents = [int(picture.parents[region])]
                while parents[-1]:
                    parents.append(int(picture.parents[parents[-1]]))
                assert members[0] in parents
    assert nested > 5


def test_pictures_vary_and_show_their_regions(pictures):
    grey = [(picture.image[..., 0] == picture.image[..., 2]).all() for picture in pictures]
    assert 5 < sum(grey) < 35
    kinds = {kind for picture in pictures for kind in picture.kinds}
    assert {"body", "outlined", "cavity", "layer", "tube", "tree", "cell"} <= kinds
    assert all(picture.image.dtype == np.uint8 for picture in pictures)
    contrast = []
    for picture in pictures:
        for region in range(1, len(picture.parents)):
            inside = picture.labels == region
            contrast.append(abs(picture.image[inside].mean() - picture.image[~inside].mean()))
    assert np.median(contrast) > 10


def test_fields_have_about_unit_deviation():
    rng = np.random.default_rng(0)
    deviation = np.mean([smooth_field(rng, 64, 8).std() for _ in range(50)])
    assert 0.8 < deviation < 1.25


def test_matrices_keep_a_constant():
    flat = np.ones((40, 40), np.float32)
    np.testing.assert_allclose(blur(flat, 2.0), flat, atol=1e-5)
    coarse = coarse_matrix(40, 7)
    np.testing.assert_allclose(coarse @ flat @ coarse.T, flat, atol=1e-5)
    np.testing.assert_allclose(spline_matrix(40, 5).sum(1), 1, atol=1e-6)
