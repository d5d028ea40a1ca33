"""Measurements of bodies whose size is known."""

import math

import numpy as np
import pytest

from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.metrics.measurements import (
    diameters,
    longest_chord,
    longest_distance,
    measure,
    slice_axis,
    surface_mm2,
)


def volume(array: np.ndarray, spacing: tuple[float, float, float] = (3, 0.8, 0.8)) -> Volume:
    return Volume(array, Geometry.from_spacing(array.shape, spacing))


def ellipsoid(
    radii_mm: tuple[float, ...], spacing: tuple[float, ...], size: int = 64
) -> np.ndarray:
    grid = np.indices((size, size, size)).reshape(3, -1).T - (size - 1) / 2
    inside = ((grid * spacing / np.array(radii_mm)) ** 2).sum(axis=1) <= 1
    return inside.reshape(size, size, size)


def test_box_has_the_expected_values() -> None:
    array = np.zeros((10, 20, 30), dtype=np.uint8)
    array[2:5, 4:9, 10:20] = 2
    (label,) = measure(volume(array, (3.0, 0.5, 0.8))).labels
    assert (label.value, label.name, label.voxels) == (2, "label 2", 150)
    assert label.volume_ml == pytest.approx(150 * 3 * 0.5 * 0.8 / 1000)
    assert label.centroid_mm == pytest.approx((14.5 * 0.8, 6 * 0.5, 3 * 3.0))
    # between the middle of a side of one corner voxel and that of the opposite corner voxel
    assert label.diameters.longest_mm == pytest.approx(math.hypot(10 * 0.8, 4 * 0.5))
    assert label.diameters.longest_slice == 2
    assert label.intensity is None


def test_ellipsoid_agrees_with_its_formulas() -> None:
    radii, spacing = (30.0, 14.0, 20.0), (1.5, 0.75, 0.75)
    (label,) = measure(volume(ellipsoid(radii, spacing).astype(np.uint8), spacing)).labels
    assert label.volume_ml == pytest.approx(4 / 3 * math.pi * math.prod(radii) / 1000, rel=5e-3)
    assert label.diameters.longest_mm == pytest.approx(40, abs=1.0)
    assert label.diameters.perpendicular_mm == pytest.approx(28, abs=1.0)
    assert 29 <= label.diameters.longest_slice <= 34
    assert label.centroid_mm == pytest.approx((31.5 * 0.75, 31.5 * 0.75, 31.5 * 1.5))


def test_surface_of_a_ball() -> None:
    spacing = (1.0, 0.5, 0.5)
    area = surface_mm2(ellipsoid((15, 15, 15), spacing), np.diag(spacing))
    # steps make the surface of a binary ball about 10 % larger than that of the ball
    assert 1.05 < area / (4 * math.pi * 225) < 1.15


def test_surface_does_not_depend_on_shear_of_a_flat_body() -> None:
    mask = np.zeros((4, 40, 40), dtype=bool)
    mask[1:3, 5:35, 5:35] = True
    straight = np.diag([2.0, 1.0, 1.0])
    sheared = straight.copy()
    sheared[1, 0] = 2.0  # one step along k moves 2 mm aside
    straight_area, sheared_area = surface_mm2(mask, straight), surface_mm2(mask, sheared)
    # only the two walls across the shear lean, by the square root of two
    wall = 30 * 2 * 2.0
    assert sheared_area - straight_area == pytest.approx(2 * wall * (math.sqrt(2) - 1), rel=0.1)


def test_diameter_of_one_voxel_and_of_a_line() -> None:
    mask = np.zeros((1, 5, 9), dtype=bool)
    mask[0, 2, 4] = True
    one = diameters(mask, np.diag([5.0, 1.0, 2.0]), 0)
    assert (one.longest_mm, one.perpendicular_mm) == pytest.approx((2, 1))
    mask[0, 2, 1:8] = True
    line = diameters(mask, np.diag([5.0, 1.0, 2.0]), 0)
    assert (line.longest_mm, line.perpendicular_mm) == pytest.approx((14, 1))
    with pytest.raises(ValueError, match="empty mask has no diameter"):
        diameters(np.zeros((1, 5, 9), dtype=bool), np.eye(3), 0)


def test_diameter_stays_within_one_connected_part() -> None:
    mask = np.zeros((1, 20, 40), dtype=bool)
    mask[0, 2:6, 2:8] = mask[0, 2:6, 30:36] = True
    assert diameters(mask, np.eye(3), 0).longest_mm == pytest.approx(math.hypot(6, 3))


def test_perpendicular_is_a_chord_not_an_extent() -> None:
    points = np.array([[0.0, 0.0], [8.0, -1.0], [10.0, 0.0], [2.0, 1.0], [5.0, 0.0]])
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    longest, corners = longest_distance(points @ turn)
    assert longest == pytest.approx(10)
    # the corners lie 2 apart across the diameter, but not at one place
    assert longest_chord(corners) == pytest.approx(1.25)


def test_rotation_in_the_plane_changes_nothing_but_rounding() -> None:
    grid = np.indices((1, 80, 80)).reshape(3, -1).T - [0, 39.5, 39.5]
    for angle in (0.0, 0.4, 1.1):
        u = grid[:, 1] * math.cos(angle) + grid[:, 2] * math.sin(angle)
        v = -grid[:, 1] * math.sin(angle) + grid[:, 2] * math.cos(angle)
        mask = (((u / 30) ** 2 + (v / 12) ** 2) <= 1).reshape(1, 80, 80)
        size = diameters(mask, np.eye(3), 0)
        assert size.longest_mm == pytest.approx(60, abs=1)
        assert size.perpendicular_mm == pytest.approx(24, abs=1)


@pytest.mark.parametrize(
    ("spacing", "codes", "axis"),
    [((3, 1, 1), "RAS", 0), ((1, 3, 1), "RAS", 1), ((1, 1, 1), "RAS", 0), ((1, 1, 1), "SAR", 2)],
)
def test_slices_lie_in_the_plane_of_acquisition(
    spacing: tuple[float, float, float], codes: str, axis: int
) -> None:
    geometry = Geometry.from_spacing((4, 5, 6), spacing)
    assert slice_axis(geometry.reoriented(codes)[1]) == axis


def test_measures_do_not_depend_on_the_storage_order() -> None:
    mask = np.zeros((12, 24, 24), dtype=np.uint8)
    mask[3:8, 4:18, 6:12] = 1
    source = volume(mask)
    change, geometry = source.geometry.reoriented("PIL")
    (one,) = measure(source).labels
    (two,) = measure(Volume(change.apply(mask), geometry)).labels
    for name in ("volume_ml", "surface_mm2", "centroid_mm"):
        assert getattr(one, name) == pytest.approx(getattr(two, name)), name
    assert one.diameters.longest_mm == pytest.approx(two.diameters.longest_mm)
    assert one.diameters.perpendicular_mm == pytest.approx(two.diameters.perpendicular_mm)


def test_intensity_under_each_label() -> None:
    mask = np.zeros((4, 8, 8), dtype=np.uint8)
    mask[1, :2], mask[2, :2] = 1, 3
    image = np.arange(256, dtype=np.int16).reshape(4, 8, 8)
    one, three = measure(volume(mask), volume(image)).labels
    assert one.intensity is not None
    assert three.intensity is not None
    values = image[1, :2].astype(float)
    assert one.intensity.mean == pytest.approx(values.mean())
    assert one.intensity.sd == pytest.approx(values.std())
    assert (three.intensity.minimum, three.intensity.maximum) == (128, 143)


def test_empty_mask_has_no_labels() -> None:
    assert measure(volume(np.zeros((3, 4, 5), dtype=np.uint8))).labels == ()


def test_unknown_frame_is_refused() -> None:
    mask = Volume(np.ones((3, 4, 5)), Geometry.from_spacing((3, 4, 5), (1, 1, 1), is_known=False))
    with pytest.raises(InputError, match=r"no frame of reference.*in mm; store the affine"):
        measure(mask)


@pytest.mark.parametrize("value", [0.5, -1, 70000, float("nan")])
def test_only_label_maps_are_measured(value: float) -> None:
    array = np.zeros((3, 4, 5))
    array[1, 1, 1] = value
    with pytest.raises(InputError, match="is not a label map"):
        measure(volume(array))


def test_almost_whole_values_are_rounded() -> None:
    array = np.zeros((3, 4, 5), dtype=np.float32)
    array[1, 1:3, 1:3] = 0.9999
    assert measure(volume(array)).labels[0].voxels == 4


def test_image_must_share_the_grid() -> None:
    mask = np.ones((3, 4, 5), dtype=np.uint8)
    with pytest.raises(InputError, match=r"another grid.*shapes \(4, 4, 5\) and \(3, 4, 5\)"):
        measure(volume(mask), volume(np.ones((4, 4, 5))))
    with pytest.raises(InputError, match="voxels apart"):
        measure(volume(mask), volume(mask, (3, 0.8, 0.9)))
