import numpy as np
import pytest

from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.text.slices import axis_of, evenly, number_of, numbered, open_view, slice_image


def volume(flip=False):
    affine = np.diag([-1.0 if flip else 1.0, 1.0, -3.0 if flip else 3.0, 1.0])
    array = np.random.default_rng(0).integers(0, 255, (6, 20, 30), dtype=np.uint8)
    return Volume(array, Geometry(array.shape, affine))


@pytest.mark.parametrize("flip", [False, True])
def test_slices_are_numbered_as_in_the_file(flip):
    source = volume(flip)
    view = open_view(source)
    assert axis_of(view) == 0
    for index in range(6):
        number = number_of(view, index)
        assert number == (5 - index if flip else index)
        plane = source.array[number][:, :: -1 if flip else 1] / 255
        assert np.allclose(slice_image(view, index)[0], plane, atol=1e-6)
    assert [number_of(view, index) for index in numbered(view, (1, 3))] == (
        [2, 1] if flip else [1, 2]
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_can_be_chosen(axis):
    view = open_view(volume(), axis)
    assert axis_of(view) == axis
    assert view.shape[0] == (6, 20, 30)[axis]


def test_bad_choices_are_refused():
    with pytest.raises(InputError, match="axis must be 0"):
        open_view(volume(), 3)
    with pytest.raises(InputError, match="a picture has no slices"):
        open_view(Picture(np.zeros((8, 8), np.uint8)), 1)
    with pytest.raises(InputError, match="no slice lies in 6:9"):
        numbered(open_view(volume()), (6, 9))


def test_many_slices_are_sampled_evenly():
    assert evenly(5, None) == evenly(5, 9) == [0, 1, 2, 3, 4]
    assert evenly(9, 3) == [0, 4, 8]
