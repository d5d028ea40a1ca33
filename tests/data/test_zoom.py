"""Windows around objects, and what a view shows through them."""

import numpy as np
import pytest

from segkit.data.preprocess import PAD_COLOUR, InputSpec, Intensity, SliceView
from segkit.data.volume import Picture, Volume
from segkit.data.zoom import LEAST_PIXELS, Zoom, window_around
from segkit.errors import InputError
from segkit.geometry import Geometry


def sides(window: tuple[slice, slice]) -> tuple[int, int]:
    return (window[0].stop - window[0].start, window[1].stop - window[1].start)


def test_a_window_is_a_square_around_the_longest_side() -> None:
    window = window_around((40, 60), (50, 80), (100, 200), factor=2)
    assert window == (slice(25, 65), slice(50, 90))


def test_a_window_is_square_in_millimetres() -> None:
    window = window_around((40, 40), (60, 60), (200, 200), factor=2, spacing_mm=(1.0, 2.0))
    assert sides(window) == (80, 40)


@pytest.mark.parametrize(("first", "last"), [((0, 0), (10, 10)), ((90, 190), (100, 200))])
def test_a_window_at_the_rim_is_moved_inside(first: tuple[int, int], last: tuple[int, int]) -> None:
    window = window_around(first, last, (100, 200), factor=3)
    assert sides(window) == (30, 30)
    assert window[0].start in (0, 70)
    assert window[1].start in (0, 170)


def test_a_window_larger_than_the_slice_is_cut() -> None:
    assert window_around((10, 10), (90, 30), (100, 60), factor=2) == (slice(0, 100), slice(0, 60))


def test_a_click_has_a_window_too() -> None:
    assert sides(window_around((7, 7), (8, 8), (100, 100), factor=2)) == (LEAST_PIXELS,) * 2


@pytest.mark.parametrize("shift", [-1.0, -0.3, 0.7, 1.0])
def test_a_shifted_window_still_holds_the_object(shift: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        first = rng.integers(0, 80, 2)
        last = first + rng.integers(1, 20, 2)
        window = window_around(first, last, (100, 100), factor=1.5, shift=(shift, -shift))
        for axis, part in enumerate(window):
            assert part.start <= first[axis]
            assert last[axis] <= part.stop


@pytest.mark.parametrize("wrong", [{"factor": 0.5}, {"factor": float("nan")}, {"size": 0}])
def test_senseless_zooms_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="zoom needs a factor >= 1"):
        Zoom(**wrong)  # type: ignore[arg-type]


def test_zoom_travels_with_the_input_description() -> None:
    spec = InputSpec(zoom=Zoom(1.5, 96))
    assert InputSpec.from_dict(spec.to_dict()) == spec
    older = {name: value for name, value in InputSpec().to_dict().items() if name != "zoom"}
    assert InputSpec.from_dict(older) == InputSpec()
    with pytest.raises(InputError, match=r"unknown entries \['faktor'\]"):
        InputSpec.from_dict({"zoom": {"faktor": 2}})


def test_blocks_have_no_zoom() -> None:
    with pytest.raises(InputError, match="a patch has its own window"):
        InputSpec(channels="repeat", patch=(8, 8, 8), zoom=Zoom())


def test_a_cropped_view_shows_the_pixels_of_the_window() -> None:
    array = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    view = SliceView(Picture(array), InputSpec(2, 64, "repeat", Intensity("full"), zoom=Zoom()))
    window = (slice(5, 25), slice(30, 40))
    close = view.cropped(window, 20)
    assert close.shape == (1, 20, 10)
    assert close.content_size == (20, 10)
    image = close.image(0)
    np.testing.assert_allclose(image[0, :, :10], array[window] / np.float32(255), atol=1e-6)
    assert np.unique(image[:, :, 10:]).tolist() == np.sort(np.float32(PAD_COLOUR)).tolist()


def test_a_cropped_view_keeps_grey_values_neighbours_and_proportions_of_the_whole() -> None:
    array = np.random.default_rng(1).normal(0, 100, (5, 30, 40)).astype(np.float32)
    volume = Volume(array, Geometry.from_spacing(array.shape, (4.0, 2.0, 1.0)))
    view = SliceView(volume, InputSpec(size=60, zoom=Zoom()))
    close = view.cropped((slice(10, 20), slice(5, 25)), 20)
    assert close.ranges == view.ranges
    assert close.content_size == (20, 20)  # 20 mm x 20 mm
    # columns are as they are, rows are drawn out: the middle of each pair keeps its order
    low, high = view.ranges[0]
    unit = np.clip((array - low) / (high - low), 0, 1)
    for channel, slice_index in enumerate((1, 2, 3)):
        rows = close.image(2)[channel].reshape(10, 2, 20).mean(axis=1)
        expected = unit[slice_index, 10:20, 5:25]
        assert np.corrcoef(rows.ravel(), expected.ravel())[0, 1] > 0.9


def test_logits_of_a_cropped_view_lie_on_the_pixels_of_the_window() -> None:
    view = SliceView(Picture(np.zeros((50, 50), np.uint8)), InputSpec(2, 64, zoom=Zoom()))
    close = view.cropped((slice(10, 42), slice(8, 40)), 32)
    logits = np.full((1, 32, 32), -1.0, np.float32)
    logits[0, 4:8, 10:20] = 1.0
    found = close.logits_to_source([logits], [0])[0, 0]
    np.testing.assert_array_equal(found, logits[0])
