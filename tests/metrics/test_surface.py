"""Goldens of both definitions, a slow independent implementation, and MONAI as a second witness."""

import itertools

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from segkit.metrics.surface import surface_distances

Spacing = tuple[float, ...]


def box(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def cube_pair(shift: int) -> tuple[np.ndarray, np.ndarray]:
    cube = box((24,) * 3, (4,) * 3, (16,) * 3)
    return np.roll(cube, shift, axis=0), cube


def blobs(seed: int, shape: tuple[int, ...], sigma: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    other = base + 0.4 * ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return other > 0.05, base > 0.05


SHIFT_1 = cube_pair(1)
SHIFT_4 = cube_pair(4)
EXTRA_VOXEL = (SHIFT_1[1] | box((24,) * 3, (20,) * 3, (21,) * 3), SHIFT_1[1])
BORDER = (box((24,) * 3, (1, 0, 0), (9, 8, 8)), box((24,) * 3, (0, 0, 0), (8, 8, 8)))
VOXELS = (box((24,) * 3, (10, 10, 13), (11, 11, 14)), box((24,) * 3, (10, 10, 10), (11, 11, 11)))
SQUARES = (box((32, 32), (10, 8), (22, 20)), box((32, 32), (8, 8), (20, 20)))

# masks, spacing, definition, HD95, HD100, {tolerance: NSD}
GOLDENS = [
    (SHIFT_1, (1, 1, 1), "surfel", 1, 1, {0.5: 0.666315, 1: 1}),
    (SHIFT_1, (1, 1, 1), "voxel", 1, 1, {0.5: 0.664835, 1: 1}),
    (SHIFT_1, (3, 1, 1), "surfel", 3, 3, {0.5: 0.837506, 1: 0.858222, 2: 0.874795, 5: 1}),
    (SHIFT_1, (3, 1, 1), "voxel", 3, 3, {0.5: 0.664835, 1: 0.714286, 2: 0.752747, 5: 1}),
    (SHIFT_4, (1, 1, 1), "surfel", 4, 4, {1: 0.600965, 2: 0.696972, 5: 1}),
    (SHIFT_4, (1, 1, 1), "voxel", 4, 4, {1: 0.593407, 2: 0.692308, 5: 1}),
    (SHIFT_4, (0.5, 1, 2), "surfel", 2, 2, {1: 0.459277, 2: 1}),
    (SHIFT_4, (0.5, 1, 2), "voxel", 2, 2, {1: 0.631868, 2: 1}),
    (EXTRA_VOXEL, (1, 1, 1), "surfel", 0, 8.660254, {1: 0.998946}),
    (EXTRA_VOXEL, (1, 1, 1), "voxel", 0, 8.660254, {1: 0.999314}),
    (BORDER, (1, 1, 1), "surfel", 1, 1, {0.5: 0.665854, 1: 1}),
    (BORDER, (1, 1, 1), "voxel", 1, 1, {0.5: 0.662162, 1: 1}),
    (VOXELS, (1, 1, 1), "surfel", 3, 3, {2: 0.5, 5: 1}),
    (VOXELS, (1, 1, 1), "voxel", 3, 3, {2: 0, 5: 1}),
    (VOXELS, (1, 1, 2.5), "surfel", 7.5, 7.5, {5: 0.5}),
    (VOXELS, (1, 1, 2.5), "voxel", 7.5, 7.5, {5: 0}),
    (SQUARES, (1, 1), "surfel", 2, 2, {1: 0.542709, 2: 1}),
    (SQUARES, (1, 1), "voxel", 2, 2, {1: 0.545455, 2: 1}),
    (SQUARES, (0.5, 1), "surfel", 1, 1, {1: 1}),
    (SQUARES, (0.5, 1), "voxel", 1, 1, {1: 1}),
]


@pytest.mark.parametrize(("masks", "spacing", "definition", "hd95", "hd100", "nsd"), GOLDENS)
def test_published_figures_are_reproduced(
    masks: tuple[np.ndarray, np.ndarray],
    spacing: Spacing,
    definition: str,
    hd95: float,
    hd100: float,
    nsd: dict[float, float],
) -> None:
    distances = surface_distances(*masks, spacing, definition=definition)
    assert distances.hausdorff_mm(95) == pytest.approx(hd95, abs=1e-6)
    assert distances.hausdorff_mm(100) == pytest.approx(hd100, abs=1e-6)
    for tolerance, expected in nsd.items():
        assert distances.nsd(tolerance) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("masks", "spacing", "definition", "expected"),
    [
        (SHIFT_1, (1, 1, 1), "voxel", 0.335165),
        (SHIFT_1, (3, 1, 1), "voxel", 0.868132),
        (SHIFT_4, (1, 1, 1), "voxel", 1.450549),
        (EXTRA_VOXEL, (1, 1, 1), "voxel", 0.005944),
        (SQUARES, (0.5, 1), "voxel", 0.522727),
        (SHIFT_1, (1, 1, 1), "surfel", 0.333685),
        (SHIFT_1, (3, 1, 1), "surfel", 0.4295),
        (SHIFT_4, (1, 1, 1), "surfel", 1.423612),
        (VOXELS, (1, 1, 2.5), "surfel", 6.25),
    ],
)
def test_mean_surface_distance(
    masks: tuple[np.ndarray, np.ndarray], spacing: Spacing, definition: str, expected: float
) -> None:
    distances = surface_distances(*masks, spacing, definition=definition)
    assert distances.assd_mm() == pytest.approx(expected, abs=5e-5)


def test_ellipsoids_at_clinical_size() -> None:
    k, j, i = np.ogrid[:256, :256, :160]
    position = (k * 0.8, j * 0.8, i * 2.0)

    def ellipsoid(centre: Spacing, radii: Spacing) -> np.ndarray:
        parts = zip(position, centre, radii, strict=True)
        return sum(((x - c) / r) ** 2 for x, c, r in parts) < 1

    pair = ellipsoid((103, 99, 163), (44, 42, 58)), ellipsoid((100, 100, 160), (45, 40, 60))
    assert [int(mask.sum()) for mask in pair] == [350_792, 353_223]
    surfel = surface_distances(*pair, (0.8, 0.8, 2.0))
    voxel = surface_distances(*pair, (0.8, 0.8, 2.0), definition="voxel")
    assert surfel.hausdorff_mm() == pytest.approx(4.381780, abs=1e-5)
    assert voxel.hausdorff_mm() == pytest.approx(4.749737, abs=1e-5)
    assert surfel.nsd(2) == pytest.approx(0.584450, abs=1e-5)
    assert voxel.nsd(2) == pytest.approx(0.494592, abs=1e-5)
    assert voxel.assd_mm() == pytest.approx(2.158024, abs=1e-5)


def brute_force(
    prediction: np.ndarray, reference: np.ndarray, spacing: Spacing
) -> tuple[float, float, float]:
    """NSD at 1 mm, HD95, ASSD of the voxel definition by all pairs of edge voxels."""
    edges = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        edge = [
            index
            for index in np.argwhere(mask)
            if not all(
                padded[tuple(index + 1 + step)]
                for axis in range(mask.ndim)
                for step in (
                    np.eye(mask.ndim, dtype=int)[axis],
                    -np.eye(mask.ndim, dtype=int)[axis],
                )
            )
        ]
        edges.append(np.array(edge) * spacing)
    pairs = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1)
    there, back = pairs.min(1), pairs.min(0)
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float((both <= 1 + 1e-9).mean()), float(hd95), float(both.mean())


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((11, 12, 13), (1.0, 1.0, 1.0)), ((9, 13, 12), (2.5, 0.7, 0.9)), ((30, 27), (0.6, 1.1))],
)
@pytest.mark.parametrize("seed", range(3))
def test_voxel_definition_equals_all_pairs(
    seed: int, shape: tuple[int, ...], spacing: Spacing
) -> None:
    pair = blobs(seed, shape)
    ours = surface_distances(*pair, spacing, definition="voxel")
    expected = brute_force(*pair, spacing)
    assert (ours.nsd(1.0), ours.hausdorff_mm(), ours.assd_mm()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((14, 15, 16), (1.0, 1.0, 1.0)), ((12, 17, 15), (2.5, 0.7, 0.9)), ((40, 37), (0.6, 1.1))],
)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_both_definitions_equal_monai(seed: int, shape: tuple[int, ...], spacing: Spacing) -> None:
    pair = blobs(seed + 10, shape, sigma=1.0)
    one_hot = [torch.from_numpy(np.stack([~mask, mask]))[None] for mask in pair]
    for definition, is_subvoxel in (("surfel", True), ("voxel", False)):
        expected = compute_surface_dice(
            *one_hot, class_thresholds=[1.0], spacing=spacing, use_subvoxels=is_subvoxel
        )
        ours = surface_distances(*pair, spacing, definition=definition)
        assert ours.nsd(1.0) == pytest.approx(float(expected), abs=1e-5)
    hd95 = compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing)
    assert ours.hausdorff_mm() == pytest.approx(float(hd95), abs=1e-4)


@pytest.mark.parametrize("definition", ["surfel", "voxel"])
def test_figures_do_not_depend_on_axis_order(definition: str) -> None:
    pair, spacing = blobs(5, (12, 13, 14)), (2.0, 0.5, 1.0)
    expected = surface_distances(*pair, spacing, definition=definition)
    for order in itertools.permutations(range(3)):
        turned = surface_distances(
            *(mask.transpose(order) for mask in pair),
            tuple(spacing[axis] for axis in order),
            definition=definition,
        )
        assert turned.nsd(1.0) == pytest.approx(expected.nsd(1.0), abs=1e-6)
        assert turned.assd_mm() == pytest.approx(expected.assd_mm(), abs=1e-6)


def test_single_full_mask_has_the_image_border_as_surface() -> None:
    full = np.ones((3, 4, 5), dtype=bool)
    for definition in ("surfel", "voxel"):
        assert surface_distances(full, full, (1, 1, 1), definition=definition).nsd(0) == 1


def test_wrong_arguments_are_named() -> None:
    mask = np.ones((4, 4), dtype=bool)
    with pytest.raises(ValueError, match=r"definition must be one of .*got 'monai'"):
        surface_distances(mask, mask, (1, 1), definition="monai")
    with pytest.raises(ValueError, match=r"must have one shape, got \(4, 4\) and \(3, 4\)"):
        surface_distances(mask, mask[:3], (1, 1))
    with pytest.raises(ValueError, match=r"one spacing per axis, got shape \(4, 4\)"):
        surface_distances(mask, mask, (1, 1, 1))
    with pytest.raises(ValueError, match="a mask is empty and has no surface"):
        surface_distances(mask, ~mask, (1, 1))
