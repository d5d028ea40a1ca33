"""Outlines between outlines."""

import numpy as np
import pytest

from segkit.predictors.shape_interpolation import between


def disc(row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.ogrid[:64, :64]
    return (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


@pytest.mark.parametrize(("share", "expected"), [(0, (20, 20, 6)), (0.5, (30, 26, 10))])
def test_a_disc_moves_and_grows_evenly(share: float, expected: tuple[float, float, float]) -> None:
    found = between(disc(20, 20, 6), disc(40, 32, 14), share) > 0
    wanted = disc(*expected)
    assert (found ^ wanted).sum() <= 0.05 * wanted.sum()


def test_both_ends_are_met_exactly() -> None:
    one, other = disc(20, 20, 6), disc(40, 32, 14)
    np.testing.assert_array_equal(between(one, other, 0) > 0, one)
    np.testing.assert_array_equal(between(one, other, 1) > 0, other)


def test_without_two_masks_there_is_nothing_between() -> None:
    with pytest.raises(ValueError, match="two masks and a share"):
        between(disc(20, 20, 6), np.zeros((64, 64), dtype=bool), 0.5)
    with pytest.raises(ValueError, match="got share 2"):
        between(disc(20, 20, 6), disc(20, 20, 6), 2)
