import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data import cache as cache_module
from segkit.data.cache import StackCache, default_cache_dir
from segkit.data.cases import Case
from segkit.data.datasets import find_cases
from segkit.data.label_options import LabelOptions
from segkit.data.labels import read_labels
from segkit.data.preparation import Recipe
from segkit.data.preprocess import InputSpec, Intensity, SliceView
from segkit.data.readers import load
from segkit.errors import DataWarning, InputError

PICTURE = InputSpec(dimensions=2, size=32, channels="rgb", intensity=Intensity("full"))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A colour picture of 20 x 30 pixels with a mask of 0 and 255."""
    rng = np.random.default_rng(0)
    image, label = tmp_path / "image.png", tmp_path / "label.png"
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(image)
    Image.fromarray((rng.random((20, 30)) < 0.5).astype(np.uint8) * 255).save(label)
    return Case("patient_name", (image,), label, "patient_name")


def entries(cache: StackCache) -> list[Path]:
    return sorted((cache.folder / "stacks").iterdir())


def test_an_entry_holds_what_the_view_shows(case: Case, tmp_path: Path) -> None:
    stack = StackCache(tmp_path / "cache", Recipe(PICTURE)).get(case)
    source = load(case.image[0])
    view = SliceView(source, PICTURE)
    assert case.label is not None
    labels = read_labels(case.label, source, {1: "object"})
    height, width = stack.facts.content
    assert np.abs(stack.image(0) - view.image(0)[:, :height, :width]).max() <= 1 / 510 + 1e-6
    np.testing.assert_array_equal(stack.label(0), view.label(labels, 0)[:height, :width])
    assert set(np.unique(stack.label(0))) == {0, 1}
    assert stack.facts.content == (21, 32)


def test_the_second_time_nothing_is_prepared(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = StackCache(tmp_path / "cache", Recipe(PICTURE))
    stack = first.get(case)

    def never(*_: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(cache_module, "prepare", never)
    again = StackCache(tmp_path / "cache", Recipe(PICTURE)).get(case)
    np.testing.assert_array_equal(again.image(0), stack.image(0))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(replace(PICTURE, size=16)),
        Recipe(replace(PICTURE, intensity=Intensity())),
        Recipe(PICTURE, labels=((1, "a"), (2, "b")), label_options=LabelOptions(mapping={255: 2})),
        Recipe(PICTURE, label_options=LabelOptions(instances=True)),
    ],
)
def test_another_recipe_is_another_entry(case: Case, tmp_path: Path, recipe: Recipe) -> None:
    StackCache(tmp_path / "cache", Recipe(PICTURE)).get(case)
    other = StackCache(tmp_path / "cache", recipe)
    other.get(case)
    assert len(entries(other)) == 2


def test_names_of_labels_do_not_matter(case: Case, tmp_path: Path) -> None:
    for name in ("polyp", "lesion"):
        cache = StackCache(tmp_path / "cache", Recipe(PICTURE, labels=((1, name),)))
        cache.get(case)
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("which", ["image", "label"])
def test_changed_content_is_another_entry(case: Case, tmp_path: Path, which: str) -> None:
    cache = StackCache(tmp_path / "cache", Recipe(PICTURE))
    before = cache.get(case)
    path = case.image[0] if which == "image" else case.label
    assert path is not None
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    after = cache.get(case)
    assert len(entries(cache)) == 2
    same_image = np.array_equal(before.image(0), after.image(0))
    same_label = np.array_equal(before.label(0), after.label(0))
    assert (same_image, same_label) == (which == "label", which == "image")


def test_equal_content_under_another_name_is_found(case: Case, tmp_path: Path) -> None:
    cache = StackCache(tmp_path / "cache", Recipe(PICTURE))
    cache.get(case)
    moved = case.image[0].rename(tmp_path / "other.png")
    cache.get(replace(case, image=(moved,)))
    assert len(entries(cache)) == 1


def test_new_code_is_another_entry(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StackCache(tmp_path / "cache", Recipe(PICTURE))
    cache.get(case)
    monkeypatch.setattr(cache_module, "_code_digest", lambda: "new")
    cache.get(case)
    assert len(entries(cache)) == 2


def test_a_damaged_entry_is_built_again_with_a_warning(case: Case, tmp_path: Path) -> None:
    cache = StackCache(tmp_path / "cache", Recipe(PICTURE))
    stack = cache.get(case)
    expected = stack.image(0)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    for damaged in (whole[:-1], b"", b"x" * len(whole)):
        entry.write_bytes(damaged)
        with pytest.warns(DataWarning, match=r"case 'patient_name' is damaged .*built again from"):
            again = cache.get(case)
        np.testing.assert_array_equal(again.image(0), expected)
        assert entry.read_bytes() == whole


def test_no_name_reaches_the_cache(case: Case, tmp_path: Path) -> None:
    cache = StackCache(tmp_path / "cache", Recipe(PICTURE, labels=((1, "secret"),)))
    cache.get(case)
    cache.remember()
    for path in cache.folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for name in ("patient", "secret", "image.png", tmp_path.name):
            assert name not in path.name
            assert name.encode() not in content


def test_nothing_is_left_when_preparation_fails(case: Case, tmp_path: Path) -> None:
    cache = StackCache(tmp_path / "cache", Recipe(PICTURE))
    case.image[0].write_bytes(case.image[0].read_bytes()[:60])
    with pytest.raises(InputError, match=r"image\.png"):
        cache.get(case)
    assert entries(cache) == []


def test_a_full_disk_is_named(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = StackCache(tmp_path / "cache", Recipe(PICTURE))
    monkeypatch.setattr(cache_module, "write_stack", full)
    expected = r"cache: the cache cannot be written \(No space left on device\); free some space"
    with pytest.raises(InputError, match=expected):
        cache.get(case)
    assert entries(cache) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"the cache cannot be written .*cache_dir or SEGKIT_HOME"):
        StackCache(tmp_path / "file" / "cache", Recipe(PICTURE))


def test_old_temporary_files_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "stacks"
    folder.mkdir(parents=True)
    for name, age_s in (("old.tmp", 7200), ("new.tmp", 5)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    StackCache(tmp_path / "cache", Recipe(PICTURE))
    assert [path.name for path in folder.iterdir()] == ["new.tmp"]


def test_a_missing_file_is_named(case: Case, tmp_path: Path) -> None:
    case.image[0].unlink()
    with pytest.raises(InputError, match=r"image\.png: cannot be read \(No such file"):
        StackCache(tmp_path / "cache", Recipe(PICTURE)).get(case)


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_HOME", "/data/segkit")
    assert default_cache_dir() == Path("/data/segkit/cache")
    monkeypatch.delenv("SEGKIT_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_cache_dir() == Path("/home/somebody/.cache/segkit")


def test_the_folder_is_private(tmp_path: Path) -> None:
    cache = StackCache(tmp_path / "cache", Recipe(PICTURE))
    assert (cache.folder / "stacks").stat().st_mode & 0o077 == 0


@pytest.mark.filterwarnings("ignore::segkit.errors.DataWarning")
def test_volume_slices_equal_the_view(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    dataset = find_cases(shared_data("3d/Task04_Hippocampus"))
    spec = InputSpec(size=64, channels="repeat")
    cache = StackCache(tmp_path, Recipe(spec, labels=tuple(dataset.labels.items())))
    case = dataset.cases["train"][3]
    stack, source = cache.get(case), load(case.image[0])
    view = SliceView(source, spec)
    assert case.label is not None
    labels = read_labels(case.label, source, dataset.labels)
    assert len(stack) == view.shape[0]
    assert stack.facts.spacing_mm == view.model_spacing_mm
    height, width = stack.facts.content
    for index in range(len(stack)):
        image = view.image(index)[:1, :height, :width]
        assert np.abs(stack.image(index) - image).max() <= 1 / 131070 + 1e-6
        label = view.label(labels, index)[:height, :width]
        np.testing.assert_array_equal(stack.label(index), label)
    assert stack.foreground.any()
    assert (stack.foreground == 0).any()
