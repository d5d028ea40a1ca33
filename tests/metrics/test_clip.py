import numpy as np
import pytest

from segkit.metrics.clip import CLIP_FIGURES, ClipMetrics, clip_metrics


def squares(*places):
    masks = np.zeros((len(places), 48, 64), dtype=bool)
    for mask, place in zip(masks, places, strict=True):
        if place is not None:
            mask[10:30, place : place + 20] = True
    return masks


def test_the_first_frame_is_not_measured() -> None:
    reference = squares(0, 4, 8)
    found = clip_metrics(squares(40, 4, 8), reference)
    assert (found.j, found.f, found.j_and_f, found.consistency) == (1.0, 1.0, 1.0, 1.0)


def test_a_copied_mask_does_not_change_as_the_object_does() -> None:
    found = clip_metrics(squares(0, 0, 0), squares(0, 10, 20))
    assert found.j == pytest.approx((1 / 3 + 0) / 2)
    # the square moves by half its side, the copy not at all
    assert found.consistency == pytest.approx(1 / 3)


def test_flicker_costs_consistency_and_not_only_overlap() -> None:
    still = squares(0, 0, 0, 0, 0)
    flickers = squares(0, 0, None, 0, None)
    assert clip_metrics(still, still).consistency == 1.0
    assert clip_metrics(flickers, still).consistency == pytest.approx(1 / 4)
    assert clip_metrics(flickers, still).j == pytest.approx(1 / 2)


def test_an_object_that_is_gone_and_not_found_agrees() -> None:
    gone = squares(0, None, None)
    assert clip_metrics(gone, gone) == ClipMetrics(1.0, 1.0, 1.0, 1.0)


def test_frames_count_by_their_size_in_the_dice_of_the_stack() -> None:
    reference = squares(0, 0, 0)
    reference[2, 11:] = False  # one row is left
    found = clip_metrics(squares(0, 0, None), reference)
    assert found.j == pytest.approx(1 / 2)
    assert found.stack_dice == pytest.approx(2 * 400 / (400 + 420))
    # what is found on a frame that shows nothing counts, too
    ghost = clip_metrics(squares(0, 0, 20), squares(0, 0, None))
    assert ghost.stack_dice == pytest.approx(2 * 400 / (800 + 400))


def test_every_figure_has_a_definition() -> None:
    found = clip_metrics(squares(0, 0), squares(0, 0))
    assert all(0 <= getattr(found, name) <= 1 for name in CLIP_FIGURES)


def test_a_clip_of_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="two labelled frames or more"):
        clip_metrics(squares(0), squares(0))
