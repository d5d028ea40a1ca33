from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data.cases import Case
from segkit.data.label_options import LabelOptions
from segkit.data.preparation import Recipe, prepare
from segkit.data.preprocess import InputSpec, Intensity
from segkit.data.stacks import StackSlice
from segkit.errors import InputError

PICTURE = InputSpec(dimensions=2, size=16, channels="rgb", intensity=Intensity("full"))


def picture(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def make(tmp_path: Path, label: np.ndarray, image: np.ndarray | None = None) -> Case:
    pixels = np.full((8, 8), 100, np.uint8) if image is None else image
    return Case(
        "a", (picture(tmp_path / "i.png", pixels),), picture(tmp_path / "l.png", label), "a"
    )


def only_slice(case: Case, recipe: Recipe) -> StackSlice:
    (one,) = prepare(case, recipe)[1]
    return one


def test_types_are_the_smallest_that_hold_the_values(tmp_path: Path) -> None:
    label = np.zeros((8, 8), np.uint16)
    label[0, 0] = 700
    recipe = Recipe(PICTURE, label_options=LabelOptions(instances=True))
    facts, slices = prepare(make(tmp_path, label), recipe)
    assert (facts.image_dtype, facts.label_dtype, facts.channels) == ("uint8", "uint16", 3)
    (one,) = slices
    assert set(np.unique(one.label)) == {0, 700}


def test_neighbours_are_stored_once(tmp_path: Path) -> None:
    spec = InputSpec(dimensions=2, size=16, channels="neighbours", intensity=Intensity("full"))
    facts, slices = prepare(make(tmp_path, np.zeros((8, 8), np.uint8)), Recipe(spec))
    (one,) = slices
    assert facts.channels == 1
    assert one.image.shape == (1, 16, 16)
    assert np.unique(one.image).tolist() == [100]


def test_sixteen_bit_images_stay_sixteen_bit(tmp_path: Path) -> None:
    image = np.full((8, 8), 30_001, np.uint16)
    case = make(tmp_path, np.zeros((8, 8), np.uint8), image)
    one = only_slice(case, Recipe(PICTURE))
    assert np.unique(one.image).tolist() == [30_001]


def test_undeclared_values_are_refused(tmp_path: Path) -> None:
    label = np.zeros((8, 8), np.uint8)
    label[0, :3] = 2
    case = make(tmp_path, label)
    with pytest.raises(InputError, match=r"l\.png: undeclared label values: 2 \(3 voxels\)"):
        prepare(case, Recipe(PICTURE))
    merged = Recipe(PICTURE, label_options=LabelOptions(mapping={2: 1}))
    assert set(np.unique(only_slice(case, merged).label)) == {0, 1}


def test_a_label_is_needed(tmp_path: Path) -> None:
    case = Case("a", (picture(tmp_path / "i.png", np.zeros((8, 8), np.uint8)),), None, "a")
    with pytest.raises(InputError, match=r"i\.png: case 'a' has no label; training and validation"):
        prepare(case, Recipe(PICTURE))


def test_one_of_several_images_is_chosen(tmp_path: Path) -> None:
    label = picture(tmp_path / "l.png", np.zeros((8, 8), np.uint8))
    images = tuple(
        picture(tmp_path / f"i_{value}.png", np.full((8, 8), value, np.uint8)) for value in (3, 9)
    )
    case = Case("a", images, label, "a")
    assert np.unique(only_slice(case, Recipe(PICTURE, channel=1)).image).tolist() == [9]
    with pytest.raises(
        InputError, match="has 2 images, got channel=None; choose one with channel="
    ):
        prepare(case, Recipe(PICTURE))
    with pytest.raises(InputError, match="has 2 images, got channel=2"):
        prepare(case, Recipe(PICTURE, channel=2))


def test_an_ignore_value_is_refused() -> None:
    with pytest.raises(InputError, match=r"an ignore value \(255\) is declared; every voxel is"):
        Recipe(PICTURE, label_options=LabelOptions(ignore=255))
