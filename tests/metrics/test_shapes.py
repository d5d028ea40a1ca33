"""Ellipses, relations, change and intervals of bodies whose size is known."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.metrics.measurements import measure
from segkit.metrics.shapes import change, fit_ellipse, interval, measure_picture, relate


def ellipse(
    half: tuple[float, float], angle_deg: float, spacing: tuple[float, float]
) -> np.ndarray:
    """Filled ellipse; `half` axes in mm, the first one turned by `angle_deg` from the columns."""
    places = (np.indices((400, 400)) - 199.5) * np.array(spacing)[:, None, None]
    turn = math.radians(angle_deg)
    along = math.cos(turn) * places[1] + math.sin(turn) * places[0]
    across = -math.sin(turn) * places[1] + math.cos(turn) * places[0]
    return (along / half[0]) ** 2 + (across / half[1]) ** 2 <= 1


@pytest.mark.parametrize("angle", [0.0, 30.0, -50.0, 90.0])
def test_ellipse_is_found_on_pixels_of_unequal_sides(angle: float) -> None:
    spacing = (0.2, 0.3)
    found = fit_ellipse(ellipse((30, 18), angle, spacing), spacing)
    assert found.major_mm == pytest.approx(60, rel=2e-3)
    assert found.minor_mm == pytest.approx(36, rel=2e-3)
    assert abs((found.angle_deg - angle + 90) % 180 - 90) < 0.3
    assert -90 < found.angle_deg <= 90
    assert found.filled > 0.99
    # Ramanujan's approximation, an independent formula
    h = ((30 - 18) / (30 + 18)) ** 2
    around = math.pi * 48 * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert found.circumference_mm == pytest.approx(around, rel=2e-3)


def test_what_is_no_ellipse_says_so_and_one_pixel_has_a_size() -> None:
    ring = ellipse((30, 30), 0, (0.2, 0.2)) & ~ellipse((25, 25), 0, (0.2, 0.2))
    assert fit_ellipse(ring, (0.2, 0.2)).filled < 0.5
    single = np.zeros((4, 4), dtype=bool)
    single[1, 2] = True
    assert fit_ellipse(single, (1, 1)).major_mm == pytest.approx(4 / math.sqrt(12))
    with pytest.raises(ValueError, match="empty mask has no ellipse"):
        fit_ellipse(np.zeros((4, 4), dtype=bool))


def test_head_circumferences_agree_with_the_table(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("2d/hc18_fetal_head/test")
    with (folder / "pixel_size_and_HC.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    off = []
    for name, pixel, expected in rows:
        mask = np.asarray(Image.open(next((folder / "masks").glob(f"{Path(name).stem}*")))) > 0
        (label,) = measure_picture(mask, (float(pixel), float(pixel)))
        off.append(abs(label.ellipse.circumference_mm / float(expected) - 1))
    assert np.mean(off) < 0.01
    assert max(off) < 0.02


def test_bad_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="no label map"):
        measure_picture(np.zeros((4, 4, 3), np.uint8), (1, 1))
    with pytest.raises(InputError, match="pixel size must be > 0 mm"):
        measure_picture(np.zeros((4, 4), np.uint8), (1, 0))


def test_distances_and_angles_of_two_rods() -> None:
    labels = np.zeros((20, 40, 40), dtype=np.uint8)
    labels[10, 5, 5:35] = 1
    labels[10, 15:35, 20] = 2
    geometry = Geometry.from_spacing(labels.shape, (2.0, 0.5, 0.5))
    found = relate(labels, geometry, 1, 2)
    assert found.gap_mm == pytest.approx(10 * 0.5)
    assert found.axis_angle_deg == pytest.approx(90)
    assert found.centroids_mm == pytest.approx(math.hypot(19.5 * 0.5, 0.5 * 0.5), rel=1e-6)
    with pytest.raises(InputError, match=r"has no label 3; it has \[1, 2\]"):
        relate(labels, geometry, 1, 3)


def test_relations_on_a_sheared_lattice_are_refused() -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.4
    labels = np.array([[[1, 2]]] * 4, dtype=np.uint8)
    with pytest.raises(InputError, match="sheared lattice"):
        relate(labels, Geometry((4, 1, 2), affine), 1, 2)


def test_change_of_a_label_that_is_gone() -> None:
    def scan(*, size: int, has_two: bool) -> Volume:
        labels = np.zeros((8, 20, 20), dtype=np.uint8)
        labels[2:4, 2 : 2 + size, 2:6] = 1
        labels[6, 10:14, 10:14] = 2 * has_two
        return Volume(labels, Geometry.from_spacing(labels.shape, (1, 1, 1)))

    one, two = change(measure(scan(size=4, has_two=True)), measure(scan(size=6, has_two=False)))
    assert one.volume_percent == pytest.approx(50)
    assert two.volume_ml == pytest.approx((0.016, 0))
    assert two.longest_percent == pytest.approx(-100)


def test_interval_holds_the_sure_and_the_possible() -> None:
    p = np.array([0.0, 0.02, 0.5, 0.9, 0.99])
    assert interval(p, lambda inside: float(inside.sum())) == (1, 3)
    with pytest.raises(InputError, match="no probabilities"):
        interval(p * 2, np.count_nonzero)
