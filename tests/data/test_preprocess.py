import itertools
import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from segkit.data.preprocess import PAD_COLOUR, InputSpec, Intensity, SliceView
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.geometry import Geometry

ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]
FULL = Intensity("percentile", 0, 100)
PAD = np.array(PAD_COLOUR, dtype=np.float32)[:, None, None]


def oblique(angle: float = 0.3, shear: float = 0.2) -> np.ndarray:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ np.diag([0.7, 0.9, 3.0, 1.0])
    affine[0, 2] += shear
    affine[:3, 3] = (-20, 30, 7)
    return affine


def blob(shape: tuple[int, int, int] = (6, 18, 24)) -> Volume:
    """A bright Gaussian bump off centre, on an oblique and sheared lattice."""
    k, j, i = np.indices(shape)
    squares = ((k - 2) / 2) ** 2 + ((j - 6) / 4) ** 2 + ((i - 15) / 4) ** 2
    return Volume((1000 * np.exp(-squares)).astype(np.int16), Geometry(shape, oblique()))


def stored_as(volume: Volume, codes: str) -> Volume:
    """The same anatomy in another storage order."""
    change, geometry = volume.geometry.reoriented(codes)
    return Volume(np.ascontiguousarray(change.apply(volume.array)), geometry)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_storage_order_gives_the_same_input_and_gets_its_mask_back(codes: str) -> None:
    volume = blob()
    spec = InputSpec(size=48)
    reference = SliceView(volume, spec)
    source = stored_as(volume, codes)
    view = SliceView(source, spec)
    assert view.shape == reference.shape == (6, 18, 24)
    assert view.spacing_mm == pytest.approx(reference.spacing_mm)
    np.testing.assert_array_equal(view.image(2), reference.image(2))

    mask = reference.stack(volume.array) > 300
    restored = view.restore(mask)
    assert restored.flags.c_contiguous
    np.testing.assert_array_equal(restored, source.array > 300)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SLA", "PIR"])
def test_a_point_lands_on_the_model_pixel_that_shows_it(codes: str, axis: int | None) -> None:
    volume = stored_as(blob(), codes)
    view = SliceView(volume, InputSpec(size=96, channels="repeat", intensity=FULL, slice_axis=axis))
    peak = np.array(np.unravel_index(volume.array.argmax(), volume.array.shape), dtype=float)
    k, row, column = view.points_to_model(peak[None])[0]
    assert k == int(k)
    image = view.image(int(k))[0]
    height, width = view.content_size
    found = np.array(np.unravel_index(image[:height, :width].argmax(), (height, width)))
    pixel = np.array(view.content_size) / view.shape[1:]  # of the source, in model pixels
    assert (np.abs(found - (row, column)) <= pixel / 2 + 0.5).all()


def test_points_and_their_inverse_agree_everywhere() -> None:
    rng = np.random.default_rng(0)
    for codes in ORIENTATIONS:
        for size, axis in ((37, None), (256, 1)):
            view = SliceView(stored_as(blob(), codes), InputSpec(size=size, slice_axis=axis))
            points = rng.uniform(0, 5, (8, 3))
            there = view.points_to_model(points)
            np.testing.assert_allclose(view.model_to_source(there), points, atol=1e-9)


def test_outer_pixel_edges_coincide() -> None:
    view = SliceView(Picture(np.zeros((10, 20), np.uint8)), InputSpec(size=64))
    assert view.content_size == (32, 64)
    corners = view.points_to_model(np.array([[-0.5, -0.5], [9.5, 19.5]]))
    np.testing.assert_allclose(corners, [[0, -0.5, -0.5], [0, 31.5, 63.5]])


def test_aspect_follows_spacing_and_padding_lies_at_the_end() -> None:
    geometry = Geometry.from_spacing((5, 40, 40), (5.0, 2.0, 1.0))
    view = SliceView(
        Volume(np.ones((5, 40, 40), np.float32), geometry), InputSpec(size=64, channels="repeat")
    )
    assert view.content_size == (64, 32)
    assert view.model_spacing_mm == pytest.approx((5.0, 1.25, 1.25))
    image = view.image(0)
    assert image.shape == (3, 64, 64)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[:, :, 32:], np.broadcast_to(PAD, (3, 64, 32)))
    assert (image[:, :, :32] == 0).all()  # a constant volume has no contrast


def test_slice_axis_is_the_widest_step_and_ties_go_to_k() -> None:
    for spacing, shape in (
        ((3, 1, 1), (4, 5, 6)),
        ((1, 3, 1), (5, 4, 6)),
        ((1, 1, 1.0005), (4, 5, 6)),
    ):
        geometry = Geometry.from_spacing((4, 5, 6), spacing)
        view = SliceView(Volume(np.zeros((4, 5, 6), np.uint8), geometry), InputSpec(size=16))
        assert view.shape == shape


@pytest.mark.parametrize("source", ["volume", "picture"])
@pytest.mark.parametrize("size", [20, 64])
def test_labels_survive_the_way_to_the_model_and_back(source: str, size: int) -> None:
    if source == "picture":
        row, column = np.indices((40, 56))
        labels = ((row - 15) ** 2 + (column - 30) ** 2 < 120).astype(np.uint8)
        item: Picture | Volume = Picture(labels * 255)
    else:
        volume = stored_as(blob((6, 36, 48)), "PIR")
        labels, item = (volume.array > 200).astype(np.uint8), volume
    view = SliceView(item, InputSpec(size=size))
    numbers = range(view.shape[0])
    logits = [np.where(view.label(labels, k), 4.0, -4.0).astype(np.float32)[None] for k in numbers]
    stack = view.logits_to_source(logits, list(numbers))
    assert stack.shape == (view.shape[0], 1, *view.shape[1:])
    back = view.restore(stack[:, 0] > 0)
    assert back.shape == labels.shape
    dice = 2 * (back & (labels > 0)).sum() / (back.sum() + labels.sum())
    assert dice > (0.98 if size == 64 else 0.85)


def test_logits_of_lower_resolution_lie_on_the_same_place() -> None:
    view = SliceView(Picture(np.zeros((30, 60), np.uint8)), InputSpec(size=64))
    model = np.add.outer(np.arange(64) * 2.0, np.arange(64) * 3.0).astype(np.float32)[None]
    coarse = model.reshape(1, 16, 4, 16, 4).mean(axis=(2, 4))
    fine, rough = (view.logits_to_source([one], [0])[0, 0] for one in (model, coarse))
    np.testing.assert_allclose(rough[3:-3, 3:-3], fine[3:-3, 3:-3], atol=1e-3)
    expected = view.points_to_model(np.array([[10.0, 20.0]]))[0, 1:] @ [2.0, 3.0]
    assert fine[10, 20] == pytest.approx(expected, abs=1e-3)


def test_label_is_nearest_and_padded_with_background() -> None:
    labels = np.array([[1, 2], [3, 4]], dtype=np.uint16)
    view = SliceView(Picture(np.zeros((2, 2), np.uint8)), InputSpec(size=5))
    out = view.label(labels, 0)
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out[0], [1, 1, 2, 2, 2])
    wide = SliceView(Picture(np.zeros((1, 2), np.uint8)), InputSpec(size=4))
    assert (wide.label(labels[:1], 0)[2:] == 0).all()


def test_neighbours_repeat_at_the_ends() -> None:
    array = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((4, 8, 8), np.uint8)
    geometry = Geometry.from_spacing((4, 8, 8), (2.0, 1.0, 1.0))
    view = SliceView(Volume(array, geometry), InputSpec(size=8, intensity=Intensity("full")))
    seen = [(view.image(k)[:, 0, 0] * 255).round().tolist() for k in range(4)]
    assert seen == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_channels_of_colour_and_grey_pictures() -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[..., 0] = 255
    spec = InputSpec(2, 8, "rgb", Intensity("full"))
    assert SliceView(Picture(colours), spec).image(0)[:, 0, 0].tolist() == [1, 0, 0]
    grey = SliceView(Picture(colours), replace(spec, channels="repeat")).image(0)[:, 0, 0]
    np.testing.assert_allclose(grey, 0.299, atol=1e-6)
    same = SliceView(Picture(colours[..., 0]), spec).image(0)[:, 0, 0]
    assert same.tolist() == [1, 1, 1]


def test_windows_are_one_channel_each() -> None:
    volume = Volume(np.full((2, 4, 4), 50, np.int16), Geometry.from_spacing((2, 4, 4), (1, 1, 1)))
    windows = ((0.0, 100.0), (0.0, 50.0), (-150.0, 250.0))
    spec = InputSpec(size=4, channels="windows", intensity=Intensity("window", windows=windows))
    assert SliceView(volume, spec).image(1)[:, 0, 0].tolist() == [0.5, 1.0, 0.5]


def test_percentiles_clip_outliers_and_come_from_a_fixed_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(0, 1, (8, 64, 64)).astype(np.float32)
    array[0, 0, 0] = 1e6
    volume = Volume(array, Geometry.from_spacing(array.shape, (1.0, 1.0, 1.0)))
    spec = InputSpec(size=64, channels="repeat", intensity=Intensity("percentile", 5, 95))
    full = SliceView(volume, spec).image(3)
    assert np.isclose((full == 0).mean(), 0.05, atol=0.01)
    assert np.isclose((full == 1).mean(), 0.05, atol=0.01)
    monkeypatch.setattr("segkit.data.intensity.MAX_SAMPLES", 2**12)
    few = SliceView(volume, spec).image(3)
    assert np.abs(few - full).max() < 0.05
    np.testing.assert_array_equal(few, SliceView(volume, spec).image(3))


def test_memory_stays_bounded_by_slices() -> None:
    array = np.zeros((64, 256, 256), np.int16)
    volume = Volume(array, Geometry.from_spacing(array.shape, (1.0, 1.0, 1.0)))
    spec = InputSpec(size=64, intensity=Intensity("window", windows=((0.0, 1.0),)))
    tracemalloc.start()
    try:
        view = SliceView(stored_as(volume, "RAS"), spec)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for k in range(0, 64, 8):
            view.image(k)
        assert tracemalloc.get_traced_memory()[1] - before < 16 * 256 * 256 * 4
    finally:
        tracemalloc.stop()


def test_spec_survives_json() -> None:
    windows = Intensity("window", windows=((0, 1), (1, 2), (2, 3)))
    block = InputSpec(channels="repeat", patch=(32, 48, 48), spacing_mm=(3.0, 1.5, 1.5))
    for spec in (InputSpec(), InputSpec(2, 64, "windows", windows, "LPS", 1), block):
        text = json.dumps(spec.to_dict())
        assert InputSpec.from_dict(json.loads(text)) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": 4}, "dimensions must be 2 or 3"),
        ({"size": 0}, "size >= 1"),
        ({"channels": "cmyk"}, "channels 'cmyk' is not one of"),
        ({"slice_axis": 3}, "slice_axis must be"),
        ({"orientation": "RAX"}, "one each of L/R"),
        ({"channels": "windows"}, "need intensity 'window'"),
        ({"intensity": {"kind": "window", "windows": [[0, 1], [1, 2]]}}, "need 1 intensity window"),
        ({"intensity": {"kind": "window"}}, "is no pair"),
        ({"intensity": {"kind": "sigmoid"}}, "is not one of"),
        ({"intensity": {"low": 50, "high": 40}}, "low < high"),
        ({"intensity": {"kind": "window", "windows": [[2, 1]]}}, r"\(low, high\) with low < high"),
        ({"intensity": {"gamma": 1}}, r"intensity has unknown entries \['gamma'\]"),
        ({"colour": 1}, r"input has unknown entries \['colour'\]; allowed"),
        ({"spacing_mm": [1, 1, 1]}, "spacing_mm must be null without a patch"),
        ({"patch": [8, 8]}, "patch must be three numbers > 0"),
        ({"patch": [8, 8, 8.5]}, "patch must be whole numbers"),
        ({"patch": [8, 8, 8]}, "needs dimensions 3 and channels 'repeat'"),
    ],
)
def test_unusable_specs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InputSpec.from_dict({**InputSpec().to_dict(), **change})


def test_misuse_is_refused() -> None:
    volume = blob()
    view = SliceView(volume, InputSpec(size=16))
    with pytest.raises(IndexError, match="slice must be 0 to 5, got 6"):
        view.image(6)
    with pytest.raises(IndexError, match="got -1"):
        view.label(volume.array, -1)
    with pytest.raises(ValueError, match=r"stack must be \(6, 18, 24\)"):
        view.restore(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="1 logit maps for 2 slices"):
        view.logits_to_source([np.zeros((1, 16, 16))], [0, 1])
    with pytest.raises(ValueError, match="its geometry"):
        SliceView(replace(volume, array=volume.array[1:]), InputSpec())
    with pytest.raises(ValueError, match=r"array must be \(4, 4\)"):
        SliceView(Picture(np.zeros((4, 4), np.uint8)), InputSpec()).stack(np.zeros((3, 4)))
    broken = replace(volume, array=np.full(volume.array.shape, np.nan, np.float32))
    with pytest.raises(InputError, match="holds NaN or Inf voxels"):
        SliceView(broken, InputSpec())
    with pytest.raises(InputError, match="needs uint8 or uint16 pixels, got int16"):
        SliceView(volume, InputSpec(intensity=Intensity("full")))
