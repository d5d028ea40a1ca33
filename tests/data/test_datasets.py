import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.data.datasets import find_cases
from segkit.data.splits import SplitSpec, split_cases
from segkit.errors import DataWarning, InputError

Fill = Callable[..., None]


def test_two_layouts_are_refused_and_one_can_be_chosen(
    tmp_path: Path, fill: Fill, pairs: Fill
) -> None:
    pairs(tmp_path, "a")
    fill(tmp_path, "case_00001/imaging.nii.gz", "case_00001/segmentation.nii.gz")
    with pytest.raises(InputError, match=r"several layouts fit \(kits, folders\).*layout=") as info:
        find_cases(tmp_path)
    assert info.value.option == "layout"
    assert [case.id for case in find_cases(tmp_path, "kits").cases["train"]] == ["case_00001"]


def test_no_layout_lists_what_was_found_and_what_is_allowed(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, "scans/a.nii.gz", "notes.txt")
    expected = r"no known layout; found notes.txt, scans/; allowed are msd: .*nnunet: .*patients: "
    with pytest.raises(InputError, match=expected):
        find_cases(tmp_path)


def test_unknown_layout_and_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown layout 'nnunet2'; allowed: auto; msd"):
        find_cases(tmp_path, "nnunet2")
    with pytest.raises(InputError, match="not a folder"):
        find_cases(tmp_path / "nothing")


def test_unpaired_files_are_listed_and_can_be_left_out(
    tmp_path: Path, fill: Fill, pairs: Fill
) -> None:
    pairs(tmp_path, "a", "b")
    fill(tmp_path, "images/c.png", "masks/d.png")
    expected = r"1 images without label \(c\) and 1 labels without image \(d\); .*allow_unpaired"
    with pytest.raises(InputError, match=expected):
        find_cases(tmp_path)
    kept = find_cases(tmp_path, allow_unpaired=True).cases["train"]
    assert [case.id for case in kept] == ["a", "b"]


def test_test_images_may_come_without_labels(tmp_path: Path, fill: Fill, pairs: Fill) -> None:
    pairs(tmp_path / "train", "a")
    fill(tmp_path, "test/images/b.png")
    (case,) = find_cases(tmp_path).cases["test"]
    assert case.label is None


def test_identical_labels_under_two_ids_are_named(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path, "a", "b", "c")
    (tmp_path / "masks/b.png").write_bytes((tmp_path / "masks/a.png").read_bytes())
    with pytest.warns(DataWarning, match="byte-identical labels .* train a = train b;"):
        find_cases(tmp_path)


def test_an_image_in_two_splits_is_named(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path / "train", "a", "b")
    pairs(tmp_path / "test", "x")
    (tmp_path / "test/images/x.png").write_bytes((tmp_path / "train/images/b.png").read_bytes())
    with pytest.warns(DataWarning, match="identical images in two splits: train b = test x;"):
        find_cases(tmp_path)


def test_a_subject_on_both_sides_is_refused_once_declared(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path / "train", "p1_left", "p2_left")
    pairs(tmp_path / "test", "p2_right")
    assert not find_cases(tmp_path).is_grouped
    with pytest.raises(InputError, match=r"1 subjects are in train or val and in test \(p2\)"):
        find_cases(tmp_path, group_by=r"^(p\d+)_")


def test_group_by_expression_names_the_subject(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path, "left_07", "right_07")
    dataset = find_cases(tmp_path, group_by=r"^(left|right)_(?P<subject>\d+)$")
    assert [case.group for case in dataset.cases["train"]] == ["07", "07"]
    assert dataset.is_grouped


def test_group_by_pairs_joins_odd_and_next_even_number(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path, "h_001", "h_002", "h_003", "h_004")
    dataset = find_cases(tmp_path, group_by="pairs")
    assert [case.group for case in dataset.cases["train"]] == ["h_1", "h_1", "h_2", "h_2"]


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ("(", r"group_by='\(' is not a regular expression"),
        ("abc", r"group_by='abc' has no group; put the part"),
        (r"(\d+)", r"finds no subject in case id 'a'"),
        ("pairs", r"group_by='pairs' needs a number in every case id, got 'a'"),
    ],
)
def test_group_by_faults_are_explained(
    tmp_path: Path, group_by: str, message: str, pairs: Fill
) -> None:
    pairs(tmp_path, "a")
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path, group_by=group_by)


def test_labels_can_be_named_and_must_be_contiguous(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path, "a")
    assert find_cases(tmp_path, labels={2: "vein", 1: "artery"}).labels == {1: "artery", 2: "vein"}
    with pytest.raises(InputError, match=r"label values must be 1, 2, \.\.\., got \{5: 'liver'\}"):
        find_cases(tmp_path, labels={5: "liver"})


def test_a_folder_without_images_is_refused(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, "images/readme.txt", "masks/readme.txt")
    with pytest.raises(InputError, match="layout 'folders' fits, but there is no case"):
        find_cases(tmp_path)


def test_a_data_set_travels_to_workers(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path, "a", "b")
    dataset = find_cases(tmp_path)
    assert pickle.loads(pickle.dumps(dataset)) == dataset


@pytest.mark.parametrize(
    ("name", "options", "layout", "train", "test"),
    [
        ("3d/Task04_Hippocampus", {"group_by": "pairs"}, "msd", (151, 100), (59, 40)),
        ("2d/kvasir_polyp", {}, "folders", (600, 600), (100, 100)),
        ("2d/chase_db1_vessels", {"group_by": r"_(\d+)[LR]"}, "folders", (16, 8), (4, 2)),
        ("2d/hc18_fetal_head", {}, "folders", (120, 120), (30, 30)),
        ("2d/dsb2018_nuclei", {}, "folders", (150, 150), (40, 40)),
        ("video/sunnybrook_cine_lv", {}, "patients", (526, 30), (167, 9)),
    ],
)
def test_real_data_sets(
    shared_data: Callable[[str], Path],
    name: str,
    options: dict[str, str],
    layout: str,
    train: tuple[int, int],
    test: tuple[int, int],
) -> None:
    dataset = find_cases(shared_data(name), **options)
    counts = {
        split: (len(cases), len({case.group for case in cases}))
        for split, cases in dataset.cases.items()
    }
    assert dataset.layout == layout
    assert counts == {"train": train, "test": test}
    assert all(case.label for cases in dataset.cases.values() for case in cases)


def test_hippocampus_by_file_would_leak(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("3d/Task04_Hippocampus")
    subject = {case.id: case.group for case in find_cases(root, group_by="pairs").cases["train"]}
    by_file = split_cases(find_cases(root), SplitSpec())
    by_subject = split_cases(find_cases(root, group_by="pairs"), SplitSpec())
    shared = {subject[case.id] for case in by_file.train} & {subject[c.id] for c in by_file.val}
    assert shared
    assert not {case.group for case in by_subject.train} & {c.group for c in by_subject.val}


def test_second_observer_of_the_vessels(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("2d/chase_db1_vessels")
    one, two = find_cases(root), find_cases(root, label_folder="masks_observer2")
    assert [case.id for case in one.cases["test"]] == [case.id for case in two.cases["test"]]
    assert {case.label.parent.name for case in two.cases["train"] if case.label} == {
        "masks_observer2"
    }
    with pytest.raises(
        InputError, match=re.escape("no label folder 'masks3'; found images, masks")
    ):
        find_cases(root, label_folder="masks3")
