"""Sessions whose model sees a window around the object, with a model whose answers are known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.volume import Picture, Volume
from segkit.data.zoom import Zoom
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.models import build
from segkit.models.info import ModelInfo
from segkit.predictors import ImagePredictor, VolumePredictor
from segkit.predictors.close_up import look_closely, reduced
from segkit.predictors.slices import EncodedSlices
from segkit.typing import Prompts

Make = Callable[..., Any]
SHAPE = (6, 200, 200)
SMALL = ((1, 50, 60), (5, 57, 66))  # 7 x 6 pixels: 2 of the 64 of the whole slice
BESIDE = ((1, 50, 70), (5, 57, 76))
FAR = ((1, 150, 20), (5, 170, 40))
NOTHING = Prompts(torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.long))


@pytest.fixture
def zoomed(bright: Make) -> Make:
    def make(factor: float = 2.0, size: int = 64) -> Any:
        predictor = bright()
        predictor.spec = replace(predictor.spec, zoom=Zoom(factor, size))
        return predictor

    return make


def voxels(*boxes: tuple[tuple[int, ...], tuple[int, ...]], at: int = 2) -> np.ndarray:
    inside = np.zeros(SHAPE, dtype=bool)
    for first, last in boxes:
        inside[at, first[1] : last[1], first[2] : last[2]] = True
    return inside


def test_a_box_shows_an_object_that_the_whole_slice_blurs(
    zoomed: Make, bright: Make, a_scan: Make
) -> None:
    scan = a_scan(SHAPE, SMALL)
    box = ((2, *SMALL[0][1:]), (3, *SMALL[1][1:]))
    close = zoomed()
    np.testing.assert_array_equal(close.open(scan).add_box(box).mask(), voxels(SMALL))
    assert close.model.encoded == 1  # the whole slice was never looked at
    assert (bright().open(scan).add_box(box).mask() != voxels(SMALL)).any()


def test_a_click_finds_the_object_first_and_looks_closely_then(zoomed: Make, a_scan: Make) -> None:
    predictor = zoomed()
    session = predictor.open(a_scan(SHAPE, SMALL)).add_points([(2, 53, 63)], [1])
    np.testing.assert_array_equal(session.mask(), voxels(SMALL))
    assert predictor.model.encoded == 2
    first, second = predictor.model.seen
    assert first.masks is None
    assert second.masks is not None
    # the same place, in the pixels of the window
    assert abs(first.points[0, 0, 1] - 53.5 * 64 / 200) < 0.6
    assert 25 < second.points[0, 0, 1] < 39


def test_the_window_stays_while_everything_lies_inside(zoomed: Make, a_scan: Make) -> None:
    predictor = zoomed(factor=6)
    session = predictor.open(a_scan(SHAPE, SMALL, BESIDE))
    session.add_box(((2, *SMALL[0][1:]), (3, *SMALL[1][1:])))
    session.mask()
    session.add_points([(2, 53, 72)], [1])
    np.testing.assert_array_equal(session.mask(), voxels(SMALL, BESIDE))
    assert predictor.model.encoded == 1
    session.add_points([(2, 53, 62)], [0])
    np.testing.assert_array_equal(session.mask(), voxels(BESIDE))
    assert predictor.model.encoded == 1


def test_a_click_outside_opens_a_wider_window(zoomed: Make, a_scan: Make) -> None:
    predictor = zoomed()
    session = predictor.open(a_scan(SHAPE, SMALL, FAR))
    session.add_box(((2, *SMALL[0][1:]), (3, *SMALL[1][1:]))).mask()
    session.add_points([(2, 160, 30)], [1])
    found = session.mask()
    overlap = (found & voxels(SMALL, FAR)).sum() / (found | voxels(SMALL, FAR)).sum()
    assert overlap > 0.8  # the window is as wide as the slice now
    session.undo()
    np.testing.assert_array_equal(session.mask(), voxels(SMALL))


def test_a_mask_and_a_lasso_open_windows_too(zoomed: Make, a_scan: Make) -> None:
    session = zoomed().open(a_scan(SHAPE, SMALL))
    session.add_mask(voxels(SMALL)).add_points([(2, 53, 63)], [1])
    np.testing.assert_array_equal(session.mask(), voxels(SMALL))
    outline = [(2, 49, 59), (2, 49, 66), (2, 57, 66), (2, 57, 59)]
    drawn = zoomed().open(a_scan(SHAPE, SMALL)).add_lasso(np.array(outline, dtype=float))
    np.testing.assert_array_equal(drawn.mask(), voxels(SMALL))


def test_nothing_found_in_the_whole_slice_stays_nothing(zoomed: Make, a_scan: Make) -> None:
    session = zoomed().open(a_scan(SHAPE, SMALL)).add_points([(2, 150, 150)], [1])
    assert not session.mask().any()
    assert np.isfinite(session.logits()[2]).all()


def test_logits_scores_and_changes_lie_on_the_grid_of_the_file(zoomed: Make, a_scan: Make) -> None:
    session = zoomed().open(a_scan(SHAPE, SMALL))
    session.add_box(((2, *SMALL[0][1:]), (3, *SMALL[1][1:])))
    assert session.changed_box() == ((2, *SMALL[0][1:]), (3, *SMALL[1][1:]))
    logits = session.logits()
    np.testing.assert_array_equal(logits > 0, session.mask())
    assert np.isneginf(logits[[0, 1, 3, 4, 5]]).all()
    assert list(session.scores()) == [2]
    assert session.uncertainty().shape == SHAPE


def test_zoomed_slices_propagate(zoomed: Make, a_scan: Make) -> None:
    scan = a_scan(SHAPE, FAR)
    session = zoomed().open(scan).add_box(((2, *FAR[0][1:]), (3, *FAR[1][1:])))
    found = session.propagate().mask()
    truth = scan.array > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
    np.testing.assert_array_equal(found[2], truth[2])


@pytest.mark.parametrize("spacing_mm", [(3.0, 1.0, 1.0), (3.0, 2.0, 1.0), (1.0, 3.0, 1.5)])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA"])
def test_what_nano_draws_of_a_box_lies_in_the_box_in_any_orientation(
    spacing_mm: tuple[float, float, float], codes: str
) -> None:
    shape = (60, 90, 120)
    change, geometry = Geometry.from_spacing(shape, spacing_mm).reoriented(codes)
    array = np.zeros(shape, np.float32)
    first, last = np.array([30, 21, 40]), np.array([42, 33, 60])
    array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = 1
    volume = Volume(np.ascontiguousarray(change.apply(array)), geometry)
    at = np.argwhere(volume.array > 0)
    spec = InputSpec(3, 256, "repeat", Intensity("window", windows=((0, 1),)), zoom=Zoom(2.0, 128))
    segmenter = build.nano()
    predictor = VolumePredictor(segmenter, ModelInfo.of(segmenter, input=spec), device="cpu")
    session = predictor.open(volume)
    axis = session.slice_axis
    low, high = at.min(axis=0), at.max(axis=0) + 1
    low[axis], high[axis] = low[axis] + 5, low[axis] + 6  # one slice
    found = np.argwhere(session.add_box((tuple(low), tuple(high))).mask())
    np.testing.assert_allclose(found.min(axis=0), low, atol=2)
    np.testing.assert_allclose(found.max(axis=0) + 1, high, atol=2)


def test_a_session_can_ask_for_a_zoom_the_model_does_not_have(bright: Make, a_scan: Make) -> None:
    box = ((2, *SMALL[0][1:]), (3, *SMALL[1][1:]))
    session = bright().open(a_scan(SHAPE, SMALL), zoom=2.0).add_box(box)
    np.testing.assert_array_equal(session.mask(), voxels(SMALL))
    with pytest.raises(InputError, match="leave zoom out"):
        bright(patch=(4, 32, 32)).open(a_scan(SHAPE, SMALL), zoom=2.0)


def test_reduced_logits_are_background_on_the_padding() -> None:
    view = SliceView(Picture(np.zeros((20, 40), np.uint8)), InputSpec(2, 64))
    cells = reduced(view, np.full((20, 40), 3.0, np.float32), (16, 16))[0]
    assert (cells[:8] == 3).all()
    assert (cells[8:] == -8).all()


def test_a_view_without_zoom_is_not_looked_at_closely() -> None:
    view = SliceView(Picture(np.zeros((20, 40), np.uint8)), InputSpec(2, 64))
    with pytest.raises(ValueError, match="no zoom"):
        look_closely(EncodedSlices(build.sam_tiny(), view), 0, NOTHING)


def test_windows_are_encoded_once_and_forgotten_in_the_end() -> None:
    segmenter = build.sam_tiny()
    spec = InputSpec(2, 64, "repeat", Intensity("full"), zoom=Zoom(2.0, 32))
    predictor = ImagePredictor(segmenter, ModelInfo.of(segmenter, input=spec), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90), dtype=np.uint8)
    session = predictor.open(Picture(pixels))
    for number in range(40):
        session.object(str(number)).add_box(((2 * number, 5), (2 * number + 9, 20))).mask()
    slices = session._engine.slices
    assert len(slices._windows) == 32
    assert not slices._cache
