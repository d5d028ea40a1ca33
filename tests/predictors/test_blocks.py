"""Models that see three dimensions: windows, and blocks around what was marked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from segkit.data.volume import Volume
from segkit.errors import DataWarning, InputError
from segkit.models import build
from segkit.models.build import BUILDERS
from segkit.predictors import VolumePredictor
from segkit.predictors.watch import CancelledError

Make = Callable[..., Any]
SHAPE = (40, 60, 60)
PATCH = (16, 16, 16)
NEAR, FAR = ((8, 8, 8), (14, 15, 13)), ((28, 45, 44), (34, 52, 50))
LONG = ((10, 5, 20), (20, 55, 30))
EVEN = (1.0, 1.0, 1.0)


def inside(*boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for box in boxes:
        mask[tuple(slice(a, b) for a, b in zip(*box, strict=True))] = True
    return mask


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def stored_as(volume: Volume, codes: str) -> tuple[Volume, Callable[[np.ndarray], np.ndarray]]:
    change, geometry = volume.geometry.reoriented(codes)
    return Volume(np.ascontiguousarray(change.apply(volume.array)), geometry), change.apply


def test_click_finds_the_lesion_around_it_and_no_other(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, NEAR, FAR, spacing_mm=EVEN))
    session.add_points([(10, 10, 10)], [1])
    np.testing.assert_array_equal(session.mask(), inside(NEAR))
    assert session.changed_box() == NEAR


def test_lesion_far_from_the_first_click_is_found_by_the_second(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, NEAR, FAR, spacing_mm=EVEN))
    session.add_points([(10, 10, 10)], [1]).mask()
    session.add_points([(30, 48, 47)], [1])
    np.testing.assert_array_equal(session.mask(), inside(NEAR, FAR))
    assert session.changed_box() == FAR
    together = bright(patch=PATCH).open(a_scan(SHAPE, NEAR, FAR, spacing_mm=EVEN))
    together.add_points([(10, 10, 10), (30, 48, 47)], [1, 1])
    np.testing.assert_array_equal(together.mask(), inside(NEAR, FAR))


def test_target_larger_than_the_block_is_followed_to_its_ends(bright: Make, a_scan: Make) -> None:
    predictor = bright(patch=PATCH)
    session = predictor.open(a_scan(SHAPE, LONG, spacing_mm=EVEN))
    found = session.add_points([(15, 30, 25)], [1]).mask()
    assert dice(found, inside(LONG)) > 0.85
    ends = np.flatnonzero(found.any(axis=(0, 2)))[[0, -1]]
    np.testing.assert_allclose(ends, (5, 54), atol=2)
    # exact where the block of full resolution lies
    np.testing.assert_array_equal(found[:, 23:37], inside(LONG)[:, 23:37])
    assert predictor.model.encoded > 2


def test_target_within_the_block_needs_one_encoding_for_all_clicks(
    bright: Make, a_scan: Make
) -> None:
    predictor = bright(patch=PATCH)
    session = predictor.open(a_scan(SHAPE, NEAR, spacing_mm=EVEN))
    session.add_points([(10, 10, 10)], [1]).mask()
    session.add_points([(12, 12, 11)], [1]).mask()
    session.object("other").add_points([(10, 10, 10)], [1]).mask()
    assert predictor.model.encoded == 1
    assert len(session.scores()) == 1


def test_negative_click_takes_a_lesion_away(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, NEAR, FAR, spacing_mm=EVEN))
    session.add_points([(10, 10, 10), (30, 48, 47)], [1, 1])
    session.add_points([(9, 9, 9)], [0])
    np.testing.assert_array_equal(session.mask(), inside(FAR))
    np.testing.assert_array_equal(session.undo().mask(), inside(NEAR, FAR))


def test_box_larger_than_the_patch_gets_a_block_that_holds_it(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, LONG, spacing_mm=EVEN)).add_box(LONG)
    assert dice(session.mask(), inside(LONG)) > 0.8


def test_flat_box_prompts_the_object_on_its_slice(bright: Make, a_scan: Make) -> None:
    predictor = bright(patch=PATCH)
    session = predictor.open(a_scan(SHAPE, NEAR, spacing_mm=EVEN))
    assert session.add_box(((10, 6, 6), (11, 20, 20))).mask().any()
    (prompts,) = predictor.model.seen
    assert prompts.labels.tolist() == [[2, 3]]


def test_mask_scribble_lasso_and_negative_box(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, NEAR, FAR, spacing_mm=EVEN))
    given = inside(((9, 9, 9), (12, 12, 12)))
    np.testing.assert_array_equal(session.add_mask(given).mask(), given)
    session.add_scribble([(9, 9, 9), (12, 13, 11)])
    np.testing.assert_array_equal(session.mask(), inside(NEAR))
    polygon = [(30, 44, 43), (30, 44, 51), (30, 53, 51), (30, 53, 43)]
    session.add_lasso(polygon)
    np.testing.assert_array_equal(session.mask(), inside(NEAR, FAR))
    session.add_box(((28, 45, 44), (34, 52, 50)), label=0)
    np.testing.assert_array_equal(session.mask(), inside(NEAR))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "AIL"])
def test_orientation_of_the_file_does_not_matter(bright: Make, a_scan: Make, codes: str) -> None:
    volume, turn = stored_as(a_scan(SHAPE, NEAR, FAR, spacing_mm=(2.0, 1.0, 1.0)), codes)
    session = bright(patch=PATCH, spacing_mm=(1.0, 1.0, 1.0)).open(volume)
    click = a_scan(SHAPE, spacing_mm=(2.0, 1.0, 1.0)).geometry.to_world_mm(
        np.array([[10.0, 10.0, 10.0]])
    )
    session.add_points(click.tolist(), [1], space="ras")
    assert dice(session.mask(), turn(inside(NEAR))) > 0.9


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((5, 60, 60), (8.0, 0.3, 0.3)), ((1, 40, 40), (5.0, 1.0, 1.0)), ((7, 9, 8), EVEN)],
)
def test_thin_anisotropic_and_small_volumes_work(
    bright: Make, a_scan: Make, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    middle = tuple(size // 2 for size in shape)
    body = (tuple(m // 2 for m in middle), tuple(m + m // 2 + 1 for m in middle))
    volume = a_scan(shape, body, spacing_mm=spacing_mm)
    session = bright(patch=PATCH, spacing_mm=EVEN).open(volume)
    found = session.add_points([middle], [1]).mask()
    assert found.shape == shape
    assert dice(found, volume.array > 0) > 0.75


def test_p11_ten_thousand_clicks_are_decoded_in_rounds(bright: Make, a_scan: Make) -> None:
    predictor = bright(patch=(40, 60, 60))
    session = predictor.open(a_scan(SHAPE, NEAR, FAR, spacing_mm=EVEN))
    clicks = [(10, 10, 10), (30, 48, 47), *((0, n // 60, n % 60) for n in range(3_000))]
    clicks += [(k, j, j) for k in range(1, 8) for j in range(60)]
    session.add_box((FAR[0], FAR[1])).add_points(clicks * 3, [1] * (3 * len(clicks)))
    np.testing.assert_array_equal(session.mask(), inside(NEAR, FAR))
    rounds = [prompts.labels.shape[1] for prompts in predictor.model.seen]
    assert max(rounds) == 256
    assert predictor.model.seen[1].labels[0, :2].tolist() == [2, 3]
    assert predictor.model.encoded == 1


def test_only_background_clicks_and_background_everywhere(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, spacing_mm=EVEN))
    with pytest.warns(DataWarning, match="only background marks"):
        assert not session.add_points([(10, 10, 10)], [0]).mask().any()
    assert not session.add_points([(20, 20, 20)], [1]).mask().any()
    assert session.changed_box() is None


def test_logits_are_undefined_where_nothing_was_decoded(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, NEAR, spacing_mm=EVEN))
    logits = session.add_points([(10, 10, 10)], [1]).logits()
    assert np.isfinite(logits).sum() == np.prod(PATCH)
    assert session.uncertainty()[30, 48, 47] == 0


def test_blocks_do_not_propagate(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, NEAR, spacing_mm=EVEN))
    with pytest.raises(InputError, match="sees blocks of the volume, not slices"):
        session.add_points([(10, 10, 10)], [1]).propagate()


def test_cancel_between_blocks_keeps_the_state(bright: Make, a_scan: Make) -> None:
    session = bright(patch=PATCH).open(a_scan(SHAPE, LONG, NEAR, spacing_mm=EVEN))
    before = session.add_points([(10, 8, 9)], [1]).mask()
    seen: list[int] = []
    session.add_points([(15, 30, 25)], [1])
    with pytest.raises(CancelledError):
        session.update(progress=lambda done, _: seen.append(done), cancel=lambda: len(seen) > 1)
    np.testing.assert_array_equal(session.mask(), before)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0)])
def test_classes_of_a_volume_come_from_windows(
    bright: Make, mirror: bool, spacing_mm: tuple[float, float, float] | None
) -> None:
    """Grey levels 0, 1/2 and 1 are background and the two classes of the model."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, (3, 5, 4)).astype(np.uint8)
    truth = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    volume = Volume((truth * 127.5).astype(np.uint8), bright_geometry(truth.shape))
    found = bright(patch=PATCH, spacing_mm=spacing_mm, classes=2).segment(volume, mirror=mirror)
    assert found.dtype == np.uint8
    # between two greys lies the grey of another class: compare the middles of the cells
    middle = (slice(3, None, 8),) * 3
    np.testing.assert_array_equal(found[middle], truth[middle])
    if spacing_mm is None:
        np.testing.assert_array_equal(found, truth)


def bright_geometry(shape: tuple[int, ...]) -> Any:
    from segkit.geometry import Geometry

    k, j, i = shape
    affine = np.diag([-0.8, 0.9, 1.3, 1.0])
    return Geometry((k, j, i), affine)


def test_segment_reports_windows_and_can_be_cancelled(bright: Make, a_scan: Make) -> None:
    predictor, seen = bright(patch=PATCH, classes=2), list[tuple[int, int]]()
    volume = a_scan((20, 20, 20), spacing_mm=EVEN)
    predictor.segment(volume, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, 8) for number in range(1, 9)]
    with pytest.raises(CancelledError):
        predictor.segment(volume, cancel=lambda: True)
    with pytest.raises(InputError, match=r"overlap must be in \[0, 1\), got 1"):
        predictor.segment(volume, overlap=1)


def test_mirrored_slices_are_averaged(a_scan: Make) -> None:
    torch.manual_seed(0)
    predictor = VolumePredictor(build.sam_tiny(classes=2), device="cpu")
    noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64)).astype(np.uint8)
    volume = Volume(noise, a_scan((2, 64, 64)).geometry)
    flipped = Volume(noise[:, :, ::-1].copy(), volume.geometry)
    plain = predictor.segment(volume)
    assert not np.array_equal(predictor.segment(flipped)[:, :, ::-1], plain)
    averaged = predictor.segment(volume, mirror=True)
    again = predictor.segment(flipped, mirror=True)[:, :, ::-1]
    assert (again != averaged).mean() < 1e-3  # ties of rounding


def test_picture_is_refused_by_a_model_of_blocks(bright: Make) -> None:
    with pytest.raises(InputError, match=r"picture of size \(20, 30\)"):
        bright(patch=PATCH).open(np.zeros((20, 30), dtype=np.uint8))


def test_lifted_sam_answers_clicks_boxes_and_classes() -> None:
    volume = Volume(
        np.random.default_rng(0).integers(0, 255, (20, 50, 40)).astype(np.uint8),
        bright_geometry((20, 50, 40)),
    )
    session = VolumePredictor(BUILDERS["sam3d_tiny"](), device="cpu").open(volume)
    session.add_points([(5, 20, 20)], [1]).add_box(((2, 5, 5), (18, 40, 30)))
    found = session.add_points([(3, 3, 3)], [0]).mask()
    assert found.shape == (20, 50, 40)
    assert all(0 <= iou <= 1 for iou in session.scores().values())
    labels = VolumePredictor(BUILDERS["sam3d_tiny"](classes=2), device="cpu").segment(volume)
    assert set(np.unique(labels)) <= {0, 1, 2}
