"""Surface of all cell codes against MONAI's table, and against solids of known area."""

from itertools import product

import numpy as np
import pytest
from monai.metrics.utils import get_code_to_measure_table

from segkit.metrics.cells import cell_codes, cell_measures


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.3, 0.7), (0.5, 4.0, 1.0)])
def test_areas_of_all_codes_equal_an_independent_table(spacing: tuple[float, ...]) -> None:
    table = get_code_to_measure_table(spacing, device="cpu")[0].numpy().ravel()
    # the other table numbers the corners from the other end
    mirrored = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
    np.testing.assert_allclose(cell_measures(spacing), table[mirrored], rtol=0, atol=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.4, 2.0)])
def test_lengths_of_all_codes_equal_an_independent_table(spacing: tuple[float, ...]) -> None:
    table = get_code_to_measure_table(spacing, device="cpu")[0].numpy().ravel()
    mirrored = [int(f"{code:04b}"[::-1], 2) for code in range(16)]
    np.testing.assert_allclose(cell_measures(spacing), table[mirrored], rtol=0, atol=1e-6)


def test_code_bits_are_the_corners() -> None:
    for corner in product((0, 1), repeat=3):
        mask = np.zeros((2, 2, 2), dtype=bool)
        mask[corner] = True
        assert cell_codes(mask)[1, 1, 1] == 1 << (4 * corner[0] + 2 * corner[1] + corner[2])


def test_area_of_a_slab_is_its_two_faces_and_its_rim() -> None:
    mask = np.zeros((20, 40, 40), dtype=bool)
    mask[8:10, 2:38, 2:38] = True
    area = cell_measures((1.0, 1.0, 1.0))[cell_codes(mask)].sum()
    assert area == pytest.approx(2 * 36 * 36 + 4 * 36 * 2, rel=0.05)
