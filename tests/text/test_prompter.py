import numpy as np
import pytest
import torch

from segkit.data.volume import Volume
from segkit.errors import InputError
from segkit.geometry import Geometry
from segkit.text import RegionSettings, SaliencySettings, TextPrompter
from segkit.text import prompter as module

QUICK = SaliencySettings(layer=1, steps=2, copies=2)


@pytest.fixture
def prompter(encoder):
    return TextPrompter(encoder, saliency=QUICK, regions=RegionSettings(keep=2))


@pytest.fixture
def at(monkeypatch):
    """Let the saliency be where a test wants it, in shares of the slice: (row, column)."""

    def choose(row, column):
        def fixed(encoder, pixels, texts, settings, *, compat=None):
            rows, cols = 16, 16
            maps = torch.zeros(len(pixels), rows, cols)
            r, c = int(row * rows), int(column * cols)
            maps[:, r : r + 2, c : c + 3] = 1
            return maps

        monkeypatch.setattr(module, "saliency", fixed)

    return choose


def picture():
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)


def volume(affine):
    array = np.random.default_rng(0).integers(0, 255, (5, 40, 64), dtype=np.uint8)
    return Volume(array, Geometry(array.shape, affine))


def test_a_picture_gives_boxes_and_points_on_its_pixels(prompter, at):
    at(0.25, 0.5)
    finding = prompter.find(picture(), "bright ring", name="ring")
    ((first, last),), ((row, column),) = finding.boxes, finding.points
    # two of 16 rows of 60 pixels, three of 16 columns of 90, blurred by less than a patch
    assert np.allclose([first, last], [(15, 45), (22.5, 61.9)], atol=3)
    assert first[0] <= row < last[0]
    assert first[1] <= column < last[1]
    assert (finding.status, finding.axis, finding.name) == ("found", None, "ring")
    assert finding.maps[0].shape == (60, 90)
    assert finding.places[0].confidence > 0.5


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, 1), (-1, -1, -1)])
def test_a_volume_gives_boxes_in_its_own_voxels(prompter, at, signs):
    """Whatever the direction of the file's axes: the same anatomy is the same millimetres."""
    at(0.25, 0.5)
    source = volume(np.diag([*np.multiply(signs, (1.0, 1.0, 4.0)), 1.0]))
    finding = prompter.find(source, "bright ring", slices=(2, 3))
    ((first, last),) = finding.boxes
    assert (first[0], last[0], finding.axis) == (2, 3, 0)
    ends = np.sort(
        [
            source.geometry.to_world_mm(np.array([corner]))[0]
            for corner in (first, np.subtract(last, 1))
        ],
        axis=0,
    )
    shape = np.array([64, 40])  # x, y
    origin = np.minimum(np.multiply(signs[:2], shape - 1), 0)
    shares = (ends[:, :2] - origin + 0.5) / shape
    assert np.allclose(shares, [(0.5, 0.25), (11 / 16, 6 / 16)], atol=0.07)
    (point,) = finding.points
    assert all(low <= value < high for low, value, high in zip(first, point, last, strict=True))


def test_slices_along_another_axis(prompter, at):
    at(0.25, 0.5)
    finding = prompter.find(volume(np.diag([1.0, 1, 4, 1])), "bright ring", axis=2, slices=(7, 8))
    ((first, last),) = finding.boxes
    assert (first[2], last[2], finding.axis) == (7, 8, 2)
    assert last[1] - first[1] > 1


def test_the_best_slice_fits_the_words_best(prompter, encoder):
    source = volume(np.diag([1.0, 1, 4, 1]))
    finding = prompter.find(source, "dark lesion")
    with torch.no_grad():
        planes = torch.from_numpy(source.array / 255).float()[:, None].expand(-1, 3, -1, -1)
        scores = encoder(planes, ["dark lesion"])[:, 0]
    assert {place.slice for place in finding.places} == {int(scores.argmax())}
    assert list(finding.similarity) == [0, 1, 2, 3, 4]
    assert np.allclose(list(finding.similarity.values()), scores, atol=1e-3)


def test_all_slices_are_looked_at_when_told(prompter):
    finding = prompter.find(volume(np.diag([1.0, 1, 4, 1])), "dark lesion", slices="all")
    assert sorted(finding.maps) == [0, 1, 2, 3, 4]


def test_objects_are_found_one_by_one_and_wordings_averaged(prompter):
    words = {"ring": ("bright ring", "round ring"), "lesion": ("dark lesion",)}
    both = prompter.find_all(picture(), words)
    assert [one.name for one in both] == ["ring", "lesion"]
    alone = prompter.find(picture(), words["ring"], name="ring")
    assert np.allclose(both[0].maps[0], alone.maps[0], atol=1e-4)
    single = prompter.find(picture(), "bright ring")
    assert not np.allclose(single.maps[0], alone.maps[0], atol=1e-4)


def test_a_flat_map_finds_nothing(prompter, monkeypatch):
    monkeypatch.setattr(module, "saliency", lambda *args, **_: torch.ones(len(args[1]), 4, 4))
    finding = prompter.find(picture(), "bright ring")
    assert (finding.status, finding.boxes, finding.points) == ("nothing", (), ())
    assert finding.to_dict()["status"] == "nothing"


def test_the_file_name_does_not_matter(prompter, tmp_path):
    from PIL import Image

    found = []
    for name in ("benign.png", "tumour_bright_ring.png"):
        Image.fromarray(picture()).save(tmp_path / name)
        found.append(prompter.find(tmp_path / name, "bright ring").to_dict())
    assert found[0] == found[1]


def test_the_report_names_all_that_decided(prompter):
    facts = prompter.facts()
    assert facts["saliency"] == QUICK.to_dict()
    assert facts["regions"]["keep"] == 2
    assert facts["encoder"] == "small"


def test_no_words_are_refused(prompter):
    with pytest.raises(InputError, match="no words given"):
        prompter.find_all(picture(), {})
