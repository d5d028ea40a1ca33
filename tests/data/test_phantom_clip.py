"""Generated clips."""

import numpy as np
import pytest

from segkit.data.phantom import phantom_clip
from segkit.data.phantom.motion import draw_path

SEEDS = range(30)


@pytest.fixture(scope="module")
def clips():
    return [phantom_clip((3, seed), 6, 64) for seed in SEEDS]


def test_a_seed_decides_the_clip():
    first, again, other = (phantom_clip(seed, 3, 64) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.frames != other.frames).any()


def test_shapes_and_numbers_agree(clips):
    for clip in clips:
        assert clip.frames.shape == (6, 64, 64, 3)
        assert clip.frames.dtype == clip.labels.dtype == np.uint8
        assert clip.labels.max() < len(clip.parents) == len(clip.kinds)
        assert (clip.parents[1:] < np.arange(1, len(clip.parents))).all()


def test_a_frame_is_a_picture_with_targets(clips):
    clip = clips[0]
    picture = clip.picture(2)
    members = picture.targets()[-1]
    np.testing.assert_array_equal(picture.mask(members), clip.mask(members)[2])


def test_bodies_move_deform_appear_and_vanish(clips):
    moved, changed, appeared, vanished = 0, 0, 0, 0
    for clip in clips:
        for region in range(1, len(clip.parents)):
            area = (clip.labels == region).sum((1, 2))
            appeared += area[0] == 0 and area.max() > 20
            vanished += area[0] > 20 and area.min() == 0
            if area.min() > 20:
                centre = [np.argwhere(frame == region).mean(0) for frame in clip.labels]
                moved += np.ptp(centre, axis=0).max() > 4
                changed += area.max() > 1.5 * area.min()
    assert min(moved, changed, appeared, vanished) > 3


def test_what_does_not_move_looks_alike_but_for_noise(clips):
    """Light and contrast belong to the device: mean intensities of a region stay close."""
    steps = []
    for clip in clips:
        for region in range(1, len(clip.parents)):
            inside = clip.labels == region
            if inside.sum((1, 2)).min() > 80:
                steps.append(np.ptp([clip.frames[t][inside[t]].mean() for t in range(6)]))
    assert np.median(steps) < 20


def test_a_path_starts_where_the_part_was_drawn():
    times = np.linspace(0, 1, 5)
    path = draw_path(np.random.default_rng(0), times, 32, (16.0, 12.0), is_body=False)
    rows, cols = np.mgrid[:32, :32].astype(np.float32)
    y, x = path.source(0, rows, cols)
    np.testing.assert_allclose(y, rows, atol=1e-4)
    np.testing.assert_allclose(x, cols, atol=1e-4)
    assert path.is_visible.all()


def test_no_frame_is_refused():
    with pytest.raises(ValueError, match="at least one frame, got frames=0"):
        phantom_clip(0, 0)
