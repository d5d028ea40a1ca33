import json
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.data.datasets import find_cases
from segkit.data.splits import SplitSpec, split_cases
from segkit.errors import InputError

MSD = {
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "liver", "2": "tumour"},
    "training": [{"image": "./imagesTr/a_1.nii.gz", "label": "./labelsTr/a_1.nii.gz"}],
    "test": ["./imagesTs/a_9.nii.gz"],
}
MSD_FILES = ("imagesTr/a_1.nii.gz", "labelsTr/a_1.nii.gz", "imagesTs/a_9.nii.gz")
NNUNET = {
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "zone": 1},
    "file_ending": ".nii.gz",
    "numTraining": 2,
}

Fill = Callable[..., None]


def write(root: Path, manifest: object) -> Path:
    (root / "dataset.json").write_text(json.dumps(manifest))
    return root


def nnunet(fill: Fill, root: Path, *cases: str) -> Path:
    for case in cases:
        fill(root, f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz")
        fill(root, f"labelsTr/{case}.nii.gz")
    return write(root, NNUNET)


def test_msd(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, *MSD_FILES, "labelsTs/a_9.nii.gz", "labelsTr/._a_1.nii.gz")
    dataset = find_cases(write(tmp_path, MSD))
    (train,), (test,) = dataset.cases["train"], dataset.cases["test"]
    assert dataset.layout == "msd"
    assert (train.id, train.image) == ("a_1", (tmp_path / "imagesTr/a_1.nii.gz",))
    assert test.label == tmp_path / "labelsTs/a_9.nii.gz"
    assert dataset.labels == {1: "liver", 2: "tumour"}
    assert dataset.channels == ("CT",)


def test_msd_label_without_entry_is_unpaired(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, *MSD_FILES, "labelsTr/a_2.nii.gz")
    with pytest.raises(InputError, match=r"1 labels without image \(a_2\)"):
        find_cases(write(tmp_path, MSD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": [{"image": "../x.nii.gz"}]}, r"path '\.\./x.nii.gz' leaves the data set"),
        ({"training": [{"image": "/x.nii.gz"}]}, "path '/x.nii.gz' leaves the data set"),
        ({"training": [{"image": 3}]}, "image must be a file name, got 3"),
        ({"training": {"image": "a"}}, "training must be a list, got dict"),
        ({"training": ["./imagesTr/b.nii.gz"]}, r"1 files named .* missing \(imagesTr/b.nii.gz\)"),
        ({"training": MSD["training"] * 2}, "case 'a_1' is listed twice"),
        ({"labels": []}, r"labels must be a table, got \[\]"),
        ({"labels": {"0": "background", "x": "liver"}}, "label values must be whole numbers"),
        ({"labels": {"0": "background", "1": "liver", "3": "x"}}, "label values must be 1, 2"),
    ],
)
def test_msd_faults(tmp_path: Path, change: dict[str, object], message: str, fill: Fill) -> None:
    fill(tmp_path, *MSD_FILES)
    with pytest.raises(InputError, match=message):
        find_cases(write(tmp_path, {**MSD, **change}))


def test_dataset_json_must_be_json(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset.json: this is not a readable JSON file"):
        find_cases(tmp_path)
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="this is not a readable JSON file"):
        find_cases(tmp_path)
    with pytest.raises(InputError, match="expected an object, got list"):
        find_cases(write(tmp_path, [1]))


def test_msd_and_nnunet_keys_together_are_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"several layouts fit \(msd, nnunet\)"):
        find_cases(write(tmp_path, {**MSD, **NNUNET}))


def test_label_folder_does_not_apply(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path, *MSD_FILES)
    with pytest.raises(InputError, match="layout 'msd' names its labels itself"):
        find_cases(write(tmp_path, MSD), label_folder="labels")


def test_nnunet_channels_and_labels(tmp_path: Path, fill: Fill) -> None:
    nnunet(fill, tmp_path, "p_1", "p_2")
    fill(tmp_path, "imagesTs/p_3_0000.nii.gz", "imagesTs/p_3_0001.nii.gz", "labelsTs/p_3.nii.gz")
    dataset = find_cases(tmp_path)
    assert dataset.layout == "nnunet"
    assert [case.id for case in dataset.cases["train"]] == ["p_1", "p_2"]
    assert [path.name for path in dataset.cases["train"][0].image] == [
        "p_1_0000.nii.gz",
        "p_1_0001.nii.gz",
    ]
    assert dataset.cases["test"][0].label == tmp_path / "labelsTs/p_3.nii.gz"
    assert (dataset.labels, dataset.channels) == ({1: "zone"}, ("T2", "ADC"))


def test_nnunet_missing_channel_and_missing_label(tmp_path: Path, fill: Fill) -> None:
    nnunet(fill, tmp_path, "p_1", "p_2")
    (tmp_path / "labelsTr/p_2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 images without label \(p_2\)"):
        find_cases(tmp_path)
    (tmp_path / "imagesTr/p_2_0001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case 'p_2' has channels \[0\], .* declares \[0, 1\]"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, r"regions .* e.g. \[1, 2\]"),
        ({"labels": {"background": 0, "zone": 1, "ignore": 2}}, "an 'ignore' label is declared"),
        ({"channel_names": []}, r"channel_names must be a table, got \[\]"),
        ({"file_ending": None}, "file_ending must be a file name, got None"),
    ],
)
def test_nnunet_faults(tmp_path: Path, change: dict[str, object], message: str, fill: Fill) -> None:
    nnunet(fill, tmp_path, "p_1")
    with pytest.raises(InputError, match=message):
        find_cases(write(tmp_path, {**NNUNET, **change}))


def test_nnunet_shipped_folds_are_used(tmp_path: Path, fill: Fill) -> None:
    nnunet(fill, tmp_path, "p_1", "p_2", "p_3")
    folds = [{"train": ["p_1", "p_2"], "val": ["p_3"]}, {"train": ["p_3"], "val": ["p_1", "p_2"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    splits = split_cases(find_cases(tmp_path), SplitSpec(fold=1))
    assert [case.id for case in splits.val] == ["p_1", "p_2"]
    with pytest.raises(InputError, match="fold 2 does not exist; there are 2; choose 0 to 1"):
        split_cases(find_cases(tmp_path), SplitSpec(fold=2))


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([{"train": ["p_1"], "val": ["p_7"]}], "ids that are no training case .*: p_7"),
        ([{"train": ["p_1"], "val": ["p_1"]}], "stand on both sides: p_1"),
        ([{"train": ["p_1"]}], "expected a list of"),
        ("all", "expected a list of"),
    ],
)
def test_nnunet_faulty_folds(tmp_path: Path, folds: object, message: str, fill: Fill) -> None:
    nnunet(fill, tmp_path, "p_1", "p_2")
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path)


def test_shipped_fold_that_separates_a_subject_is_refused(tmp_path: Path, fill: Fill) -> None:
    nnunet(fill, tmp_path, "p_1", "p_2")
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["p_1"], "val": ["p_2"]}]))
    dataset = find_cases(tmp_path, group_by="pairs")
    with pytest.raises(InputError, match=r"fold 0 has subjects on both sides \(p_1\)"):
        split_cases(dataset, SplitSpec(fold=0))
