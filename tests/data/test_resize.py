"""Two ways to scale, one result."""

import numpy as np
import pytest

from segkit.data.resize import enlarged, resized


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 16, 1)])
@pytest.mark.parametrize("size", [(16, 16), (31, 18), (16, 40)])
@pytest.mark.parametrize("keep", [None, (9, 16)])
def test_enlarged_equals_resized(shape: tuple, size: tuple, keep: tuple | None) -> None:
    planes = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows, columns = keep or size
    expected = resized(planes, size)[:, :rows, :columns]
    got = enlarged(planes, size, keep)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_what_shrinks_is_averaged() -> None:
    planes = np.random.default_rng(0).normal(size=(2, 12, 9)).astype(np.float32)
    np.testing.assert_array_equal(
        enlarged(planes, (6, 20), (4, 5)), resized(planes, (6, 20))[:, :4, :5]
    )


def test_planes_of_the_size_are_not_copied() -> None:
    planes = np.zeros((1, 4, 4), np.float32)
    assert resized(planes, (4, 4)) is planes
    assert np.shares_memory(enlarged(planes, (4, 4)), planes)


def test_planes_without_order_in_memory() -> None:
    planes = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32).transpose(2, 0, 1)
    np.testing.assert_allclose(enlarged(planes, (9, 9)), resized(planes, (9, 9)), atol=2e-6)
