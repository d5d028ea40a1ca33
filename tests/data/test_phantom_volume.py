"""Generated volumes and the data set folder."""

import json

import nibabel
import numpy as np
import pytest

from segkit.data.phantom import phantom_volume, write_phantom_dataset
from segkit.data.phantom.volume import LABELS


@pytest.mark.parametrize("structure", ["lesion", "parts"])
@pytest.mark.parametrize("seed", range(4))
def test_every_label_is_drawn(seed, structure):
    array, labels, spacing_mm = phantom_volume(seed, structure=structure)
    assert array.shape == labels.shape
    assert array.dtype == np.int16
    assert array.min() >= 0
    assert set(np.unique(labels).tolist()) == {0, *LABELS[structure]}
    assert all(0.5 < step < 4 for step in spacing_mm)


def test_the_organ_differs_from_its_surroundings():
    array, labels, _ = phantom_volume(5)
    assert np.median(array[labels == 1]) > 1.3 * np.median(array[labels == 0])


def test_a_seed_decides_the_volume():
    first, again, other = phantom_volume(1), phantom_volume(1), phantom_volume(2)
    np.testing.assert_array_equal(first.array, again.array)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.array.shape != other.array.shape or (first.array != other.array).any()


def test_shape_is_kept():
    assert phantom_volume(0, shape=(8, 24, 20)).array.shape == (8, 24, 20)


def test_wrong_arguments_are_explained():
    with pytest.raises(ValueError, match=r"structure must be one of \('lesion', 'parts'\)"):
        phantom_volume(0, structure="liver")
    with pytest.raises(ValueError, match="shape must be >= 8 voxels"):
        phantom_volume(0, shape=(4, 20, 20))


def test_dataset_folder_round_trip(tmp_path):
    root = write_phantom_dataset(tmp_path / "set", cases=2, test_cases=1, seed=3)
    document = json.loads((root / "dataset.json").read_text())
    assert (document["numTraining"], document["numTest"]) == (2, 1)
    assert document["labels"] == {"0": "background", "1": "organ", "2": "lesion"}
    for number, entry in enumerate(document["training"] + document["test"]):
        image, label = (nibabel.load(root / entry[key]) for key in ("image", "label"))
        volume = phantom_volume((3, number))
        # stored with different axis directions, but of one anatomy
        for stored, drawn in ((image, volume.array), (label, volume.labels)):
            upright = np.asarray(nibabel.as_closest_canonical(stored).dataobj)
            np.testing.assert_array_equal(upright.transpose(2, 1, 0), drawn)
        np.testing.assert_allclose(image.affine, label.affine)
        assert abs(image.affine[0, 1]) > 1e-4  # oblique
        spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
        np.testing.assert_allclose(spacing[::-1], volume.spacing_mm, rtol=1e-5)


def test_dataset_needs_cases(tmp_path):
    with pytest.raises(ValueError, match="cases must be >= 1"):
        write_phantom_dataset(tmp_path, cases=0)
