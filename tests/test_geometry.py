import itertools
import math

import nibabel as nib
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.geometry import Geometry, closest_axes

SHAPE = (16, 20, 24)
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]


def random_affine(rng: np.random.Generator, *, shear: float = 0.0) -> np.ndarray:
    """Rotation in any order and handedness, spacing 0.05 to 20 mm, optional shear."""
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.choice([-1, 1], 3)
    skew = np.eye(3) + np.triu(rng.uniform(-shear, shear, (3, 3)), 1)
    affine = np.eye(4)
    affine[:3, :3] = rotation @ skew * np.exp(rng.uniform(np.log(0.05), np.log(20), 3))
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    return affine


def random_geometries(count: int) -> list[Geometry]:
    rng = np.random.default_rng(0)
    shears = (0.0, 0.0, 0.5)
    return [
        Geometry(
            tuple(int(n) for n in rng.integers(1, 64, 3)),
            random_affine(rng, shear=shears[number % 3]),
        )
        for number in range(count)
    ]


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


def test_index_and_world_are_inverse_for_random_affines() -> None:
    rng = np.random.default_rng(1)
    for geometry in random_geometries(4000):
        index = rng.uniform(0, 63, (4, 3))
        for space in ("voxel", "ras", "lps"):
            back = geometry.to_index(geometry.to_world_mm(index, space), space)
            assert np.abs(back - index).max() < 1e-6


def test_world_follows_the_file_convention() -> None:
    affine = random_affine(np.random.default_rng(2))
    geometry = Geometry(SHAPE, affine)
    k, j, i = 3.0, 5.5, 7.0
    expected = (affine @ [i, j, k, 1])[:3]
    np.testing.assert_allclose(geometry.to_world_mm(np.array([[k, j, i]]))[0], expected)
    lps = geometry.to_world_mm(np.array([[k, j, i]]), "lps")[0]
    np.testing.assert_allclose(lps, expected * [-1, -1, 1])


def test_reorientation_is_exact_and_keeps_every_voxel_in_place() -> None:
    rng = np.random.default_rng(3)
    for number, geometry in enumerate(random_geometries(2000)):
        codes = ORIENTATIONS[number % 48]
        change, turned = geometry.reoriented(codes)
        assert change.result_shape == turned.shape
        index = rng.uniform(0, 63, (3, 3))
        there = change.index(index)
        np.testing.assert_allclose(
            turned.to_world_mm(there), geometry.to_world_mm(index), rtol=0, atol=1e-7
        )
        np.testing.assert_allclose(change.source_index(there), index, atol=1e-9)
        assert turned.orientation == codes


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_reorientation_of_an_array_moves_voxels_as_indices(codes: str) -> None:
    geometry = Geometry.from_spacing((3, 4, 5), (3.0, 0.8, 0.7))
    array = np.arange(60).reshape(3, 4, 5)
    change, turned = geometry.reoriented(codes)
    moved = change.apply(array)
    assert np.shares_memory(moved, array)
    np.testing.assert_array_equal(change.invert(moved), array)
    for index in ((0, 0, 0), (2, 1, 3)):
        there = change.index(np.array([index], dtype=float))[0].astype(int)
        assert moved[tuple(there)] == array[index]
    assert turned.orientation == codes
    back, same = turned.reoriented("RAS")
    np.testing.assert_array_equal(back.apply(moved), array)
    np.testing.assert_allclose(same.affine, geometry.affine, atol=1e-12)


def test_closest_axes_agree_with_nibabel_also_for_sheared_lattices() -> None:
    for geometry in random_geometries(1000):
        expected = nib.orientations.io_orientation(geometry.affine).astype(int)
        axes, signs = closest_axes(geometry.affine)
        assert [axes, signs] == expected.T.tolist()
        assert geometry.orientation == "".join(nib.aff2axcodes(geometry.affine))


def test_spacing_volume_and_diagonal_of_a_sheared_lattice() -> None:
    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    affine[0, 2] = 0.9
    geometry = Geometry(SHAPE, affine)
    assert geometry.spacing_mm == pytest.approx((math.hypot(3, 0.9), 0.8, 0.8))
    assert geometry.voxel_volume_mm3 == pytest.approx(0.8 * 0.8 * 3)
    box = Geometry.from_spacing((2, 3, 6), (1.0, 1.0, 1.0))
    assert box.diagonal_mm == pytest.approx(7.0)


def test_corner_shift_counts_in_voxels_and_sees_mirrors() -> None:
    geometry = Geometry.from_spacing(SHAPE, (3.0, 0.8, 0.8))
    moved = geometry.affine.copy()
    moved[2, 3] = 1.5
    assert geometry.corner_shift(Geometry(SHAPE, moved)) == pytest.approx(0.5)
    mirrored = geometry.affine * [-1, 1, 1, 1]
    assert geometry.corner_shift(Geometry(SHAPE, mirrored)) == math.inf


def test_affine_is_a_private_read_only_copy() -> None:
    affine = np.eye(4)
    geometry = Geometry(SHAPE, affine)
    affine[0, 0] = 5
    assert geometry.affine[0, 0] == 1
    assert geometry.affine.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 2


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "must be 4 x 4, got 3 x 3"),
        (np.diag([1.0, np.nan, 1, 1]), "holds NaN"),
        (np.diag([1.0, 0, 1, 1]), "is singular"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "is singular"),
        (np.eye(4) + np.eye(4)[[3, 0, 1, 2]].T * [[0], [0], [0], [1]], "is it transposed"),
    ],
)
def test_unusable_affines_are_refused(affine: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Geometry(SHAPE, affine)


def test_unusable_shapes_codes_and_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="three numbers >= 1"):
        Geometry((0, 2, 2), np.eye(4))
    geometry = Geometry(SHAPE, np.eye(4))
    for codes in ("RAX", "RLS", "RA", "ras"):
        with pytest.raises(ValueError, match="one each of L/R, P/A and I/S"):
            geometry.reoriented(codes)
    with pytest.raises(ValueError, match="space must be one of"):
        geometry.to_world_mm(np.zeros((1, 3)), "mni")
    with pytest.raises(ValueError, match=r"must have the shape \(16, 20, 24\)"):
        geometry.reoriented("LPS")[0].apply(np.zeros((1, 2, 3)))


def test_unknown_frame_allows_voxels_only() -> None:
    geometry = Geometry.from_spacing(SHAPE, (1.0, 1.0, 1.0), is_known=False)
    index = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(geometry.to_index(index, "voxel"), index)
    with pytest.raises(InputError, match=r"carries no frame.*--spacing") as caught:
        geometry.to_index(index, "lps")
    assert caught.value.code == "unknown_frame"
    assert not geometry.reoriented("LPS")[1].is_known
