"""Simulated users: every click lies where it must, and only the generator decides."""

import time

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor

from segkit.prompts.simulate import (
    box_from_mask,
    extend,
    first_click,
    first_prompts,
    next_click,
    sample_objects,
)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int = 6, size: int = 64) -> Tensor:
    """Irregular masks with several components each."""
    noise = np.random.default_rng(0).standard_normal((count, size, size))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 4, 4)) > 0.03)


def hits(masks: Tensor, points: Tensor) -> Tensor:
    j, i = points[:, 0, 1].long(), points[:, 0, 2].long()
    return masks[torch.arange(len(masks)), j, i]


@pytest.mark.parametrize("place", ["random", "deepest"])
def test_first_click_lies_inside(place: str) -> None:
    masks = blobs()
    prompts = first_click(masks, seeded(), place=place)
    assert prompts.labels.tolist() == [[1]] * 6
    assert hits(masks, prompts.points).all()


def test_deepest_click_is_the_maximum_of_the_distance_transform() -> None:
    masks = blobs()
    prompts = first_click(masks, seeded(), place="deepest")
    for mask, (_, j, i) in zip(masks.numpy(), prompts.points[:, 0].int().tolist(), strict=True):
        # the edge of the image counts as an edge of the object
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        assert depth[j, i] == pytest.approx(depth.max(), rel=1e-6)


def test_random_click_reaches_every_pixel_about_equally() -> None:
    mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[0, 1, 1:4] = mask[0, 3, 3] = True
    generator = seeded()
    counts = torch.zeros(5, 5)
    for _ in range(400):
        _, j, i = first_click(mask, generator).points[0, 0].int().tolist()
        counts[j, i] += 1
    assert (counts > 0).equal(mask[0])
    assert counts[mask[0]].min() > 70


def test_clicks_repeat_with_the_seed_and_differ_without() -> None:
    masks = blobs()
    first = first_click(masks, seeded(1)).points
    assert first.equal(first_click(masks, seeded(1)).points)
    assert not first.equal(first_click(masks, seeded(2)).points)


def test_next_click_corrects_the_largest_error() -> None:
    wanted, found = torch.zeros(3, 32, 32), torch.zeros(3, 32, 32)
    wanted[:, 4:12, 4:12] = 1
    found[0, 4:12, 4:8] = 1  # the right half is missed
    found[0, 20:22, 20:22] = 1
    found[1, 4:12, 4:12] = found[1, 16:30, 16:30] = 1  # a large region too much
    found[2] = wanted[2]
    prompts = next_click(found.bool(), wanted.bool(), seeded())
    assert prompts.labels.tolist() == [[1], [0], [-1]]
    assert hits((wanted - found)[:1] > 0, prompts.points[:1]).all()
    assert hits((found - wanted)[1:2] > 0, prompts.points[1:2]).all()


def test_missed_and_extra_regions_that_touch_are_not_joined() -> None:
    wanted, found = torch.zeros(1, 16, 16).bool(), torch.zeros(1, 16, 16).bool()
    wanted[0, 2:8, 2:8] = True  # 36 missed
    found[0, 2:14, 8:12] = True  # 48 extra, touching
    prompts = next_click(found, wanted, seeded())
    assert prompts.labels.item() == 0
    assert hits(found, prompts.points).all()


def test_random_component_follows_the_area() -> None:
    wanted = torch.zeros(1, 16, 16).bool()
    wanted[0, 0:6, 0:6] = wanted[0, 10:13, 10:14] = True  # 36 and 12 pixels
    generator = seeded()
    large = sum(
        next_click(torch.zeros_like(wanted), wanted, generator, component="random").points[0, 0, 1]
        < 6
        for _ in range(400)
    )
    assert 260 < int(large) < 340


def test_iterated_clicks_label_what_they_hit() -> None:
    wanted, generator = blobs(), seeded()
    found = torch.zeros_like(wanted)
    for place in ("random", "deepest"):
        for component in ("random", "largest"):
            prompts = next_click(found, wanted, generator, component=component, place=place)
            is_wrong = hits(found != wanted, prompts.points)
            assert (is_wrong | (prompts.labels[:, 0] == -1)).all()
            assert hits(wanted, prompts.points)[prompts.labels[:, 0] == 1].all()
            found = ~found.roll(7, dims=1)


def test_box_is_tight_and_inclusive() -> None:
    mask = torch.zeros(1, 20, 30).bool()
    mask[0, 3:9, 5] = mask[0, 4, 5:26] = True
    prompts = box_from_mask(mask)
    assert prompts.points.tolist() == [[[0, 3, 5], [0, 8, 25]]]
    assert prompts.labels.tolist() == [[2, 3]]


def test_jittered_boxes_are_ordered_inside_and_as_wide_as_asked() -> None:
    masks = torch.zeros(500, 64, 64).bool()
    masks[:, 20:40, 10:60] = True
    prompts = box_from_mask(masks, seeded(), jitter=0.1, max_shift=4)
    first, last = prompts.points[:, 0, 1:], prompts.points[:, 1, 1:]
    assert (first >= 0).all()
    assert (last <= 63).all()
    assert (first <= last).all()
    shift = first - torch.tensor([20.0, 10.0])
    assert shift.abs().max() <= 4
    assert shift[:, 0].std().item() == pytest.approx(0.1 * 20, rel=0.15)


def test_volumes_get_three_dimensional_marks() -> None:
    masks = torch.zeros(1, 6, 16, 16).bool()
    masks[0, 2:5, 3:10, 4:9] = True
    assert first_click(masks, seeded(), place="deepest").points.tolist()[0][0][0] == 3
    assert box_from_mask(masks).points.tolist() == [[[2, 3, 4], [4, 9, 8]]]
    assert next_click(~masks, masks, seeded()).labels.item() == 0


def test_empty_masks_get_padding() -> None:
    masks = torch.zeros(2, 8, 8).bool()
    assert (first_click(masks, seeded()).labels == -1).all()
    assert (box_from_mask(masks, seeded(), jitter=0.1).labels == -1).all()
    assert (first_prompts(masks, seeded()).labels == -1).all()
    assert first_prompts(masks[:0], seeded()).labels.shape[0] == 0
    assert next_click(masks[:0], masks[:0], seeded()).points.shape == (0, 1, 3)
    assert box_from_mask(masks[:0]).points.shape == (0, 2, 3)


def test_first_prompts_mix_clicks_and_boxes() -> None:
    masks = blobs(200, 16)
    masks[:, 0, 0] = True
    index = torch.arange(200)
    prompts = first_prompts(masks, seeded(), box_share=0.25, image_index=index)
    boxes = (prompts.labels == torch.tensor([2, 3])).all(1)
    clicks = (prompts.labels == torch.tensor([1, -1])).all(1)
    assert (boxes | clicks).all()
    assert 30 < boxes.sum() < 70
    assert prompts.image_index is index
    assert first_prompts(masks, seeded(), box_share=0).labels.shape == (200, 1)


def test_extend_appends_marks_and_replaces_the_mask() -> None:
    masks, logits = blobs(2), torch.zeros(2, 1, 4, 4)
    index = torch.tensor([0, 0])
    start = first_prompts(masks, seeded(), box_share=0, image_index=index)
    both = extend(start, next_click(~masks, masks, seeded()), logits)
    assert both.labels.shape == (2, 2)
    assert both.masks is logits
    assert both.image_index is index


def test_sample_objects_picks_each_value_once_and_names_its_image() -> None:
    labels = torch.zeros(3, 8, 8, dtype=torch.long)
    labels[0, :2], labels[0, 2:4], labels[0, 4:6] = 1, 2, 7
    labels[2, 1:3] = 2
    objects = sample_objects(labels, None, 2, seeded())
    assert objects.image_index.tolist() == [0, 0, 2]
    assert objects.values.unique().numel() == len(set(objects.values.tolist()))
    for mask, image, value in zip(objects.masks, objects.image_index, objects.values, strict=True):
        assert mask.equal(labels[image] == value)
    assert sample_objects(labels, [2], 5, seeded()).image_index.tolist() == [0, 2]
    assert sample_objects(labels, [3], 5, seeded()).masks.shape == (0, 8, 8)


def test_sample_objects_chooses_at_random() -> None:
    labels = torch.arange(1, 5).view(1, 2, 2)
    generator = seeded()
    picked = {sample_objects(labels, None, 1, generator).values.item() for _ in range(60)}
    assert picked == {1, 2, 3, 4}


def test_a_click_on_256_pixels_takes_milliseconds() -> None:
    masks = blobs(8, 256)
    next_click(~masks, masks, seeded())
    start = time.process_time()
    next_click(~masks, masks, seeded())
    assert (time.process_time() - start) / 8 < 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: first_click(m, seeded(), place="middle"), "place must be one of .*'middle'"),
        (lambda m: next_click(m, m, seeded(), component="all"), "component must be one of .*'all'"),
        (lambda m: box_from_mask(m, jitter=0.1), "needs a generator if > 0, got 0.1"),
        (
            lambda m: first_prompts(m, seeded(), box_share=2),
            r"box_share must be in \[0, 1\], got 2",
        ),
        (lambda m: sample_objects(m.long(), None, 0, seeded()), "max_objects must be >= 1, got 0"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(1, 4, 4).bool())
