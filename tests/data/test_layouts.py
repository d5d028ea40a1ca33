from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.data.datasets import find_cases
from segkit.errors import InputError

Fill = Callable[..., None]


def ids(root: Path, split: str = "train") -> list[str]:
    return [case.id for case in find_cases(root).cases[split]]


def test_images_and_masks_at_the_top(tmp_path: Path, fill: Fill, pairs: Fill) -> None:
    pairs(tmp_path, "b", "a")
    fill(tmp_path, "images/.hidden.png", "images/sizes.csv")
    dataset = find_cases(tmp_path)
    assert dataset.layout == "folders"
    assert ids(tmp_path) == ["a", "b"]
    assert set(dataset.cases) == {"train"}


def test_split_folders_with_labels_and_validation(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path / "training", "a", masks="labels")
    pairs(tmp_path / "validation", "v", images="imgs", masks="labels")
    pairs(tmp_path / "test", "t")
    assert {split: ids(tmp_path, split) for split in ("train", "val", "test")} == {
        "train": ["a"],
        "val": ["v"],
        "test": ["t"],
    }


def test_label_names_with_a_mark_are_paired(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, "images/01.jpg", "masks/01_Annotation.png", "images/02.jpg", "masks/02_seg.png")
    assert [case.label.name for case in find_cases(tmp_path).cases["train"] if case.label] == [
        "01_Annotation.png",
        "02_seg.png",
    ]


def test_volumes_count_as_images(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, "images/x.nii.gz", "labels/x.nrrd")
    assert ids(tmp_path) == ["x"]


def test_patient_folders_make_groups(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path / "train" / "P1", "0001", "0002", images="frames")
    pairs(tmp_path / "test" / "P2", "0001", images="frames")
    dataset = find_cases(tmp_path)
    assert dataset.layout == "patients"
    assert ids(tmp_path) == ["P1_0001", "P1_0002"]
    assert {case.group for case in dataset.cases["train"]} == {"P1"}
    assert dataset.is_grouped


def test_a_patient_in_two_splits_is_refused(tmp_path: Path, pairs: Fill) -> None:
    pairs(tmp_path / "train" / "P1", "1")
    pairs(tmp_path / "test" / "P1", "2")
    with pytest.raises(InputError, match=r"1 subjects are in train or val and in test \(P1\)"):
        find_cases(tmp_path)


def test_the_majority_of_kits21_is_the_label(tmp_path: Path, fill: Fill) -> None:
    names = ("imaging", "aggregated_AND_seg", "aggregated_MAJ_seg")
    fill(tmp_path, *(f"case_00001/{name}.nii.gz" for name in names))
    (case,) = find_cases(tmp_path).cases["train"]
    assert case.label == tmp_path / "case_00001" / "aggregated_MAJ_seg.nii.gz"


def test_kits_cases(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, "case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz")
    fill(tmp_path, "case_00001/imaging.nii.gz")
    with pytest.raises(InputError, match=r"1 images without label \(case_00001\)"):
        find_cases(tmp_path)
    dataset = find_cases(tmp_path, allow_unpaired=True)
    assert (dataset.layout, dataset.labels[2]) == ("kits", "tumor")
    assert [case.id for case in dataset.cases["train"]] == ["case_00000"]
    with pytest.raises(InputError, match="layout 'kits' has no label folders"):
        find_cases(tmp_path, label_folder="masks")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("images/a.png", "masks/a.png", "labels/a.png"), "several label folders: masks, labels"),
        (("images/a.png", "frames/a.png"), "several image folders: images, frames"),
        (("images/a.png", "images/a.jpg"), "a.jpg and a.png both belong to case 'a'"),
        (("train/images/a.png", "training/images/a.png"), "several folders for train: train, tra"),
        (("images/a.png", "train/images/b.png"), "images at the top and in train"),
    ],
)
def test_ambiguous_folders_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str, fill: Fill
) -> None:
    fill(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path)


def test_two_label_folders_can_be_told_apart(tmp_path: Path, fill: Fill, pairs: Fill) -> None:
    pairs(tmp_path, "a")
    fill(tmp_path, "labels/a.png")
    (case,) = find_cases(tmp_path, label_folder="labels").cases["train"]
    assert case.label == tmp_path / "labels" / "a.png"
