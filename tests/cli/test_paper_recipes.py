"""The recipes of 3DSAM-adapter run from one command each, on folders laid out as published."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from segkit.cli.main import main

SHAPE, CASES = (20, 24, 24), 6
TINY = [
    *("backbone=sam3d_tiny", "trainer=cpu", "data.patch=[16,16,16]", "trainer.max_epochs=1"),
    *("trainer.limit_train_batches=2", "+trainer.limit_val_batches=1"),
]


def scan(number: int, organ: int, tumour: int) -> tuple[nibabel.Nifti1Image, nibabel.Nifti1Image]:
    """A ball of organ with a small one of tumour in Hounsfield units, and its labels."""
    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    far = (k - 10) ** 2 + (j - 12) ** 2 + (i - 12) ** 2
    near = (k - 9) ** 2 + (j - 12) ** 2 + (i - 9 - number) ** 2
    labels = np.where(near < 16, tumour, np.where(far < 64, organ, 0)).astype(np.uint8)
    noise = np.random.default_rng(number).normal(0, 10, SHAPE)
    image = (-100 + 160 * (labels > 0) + 60 * (labels == tumour) + noise).astype(np.int16)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    return nibabel.Nifti1Image(image.T, affine), nibabel.Nifti1Image(labels.T, affine)


def kits(root: Path) -> None:
    for number in range(CASES):
        folder = root / f"case_{number:05d}"
        folder.mkdir(parents=True)
        image, labels = scan(number, organ=1, tumour=2)
        nibabel.save(image, folder / "imaging.nii.gz")
        nibabel.save(labels, folder / "aggregated_MAJ_seg.nii.gz")


def msd(root: Path, names: dict[str, str]) -> None:
    organ, tumour = (0, 1) if len(names) == 2 else (1, 2)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    training = []
    for number in range(CASES):
        image, labels = scan(number, organ, tumour)
        name = f"case_{number:03d}.nii.gz"
        nibabel.save(image, root / "imagesTr" / name)
        nibabel.save(labels, root / "labelsTr" / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    document = {"labels": names, "training": training, "test": []}
    (root / "dataset.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "recipe", ["3dsam_kits21", "3dsam_lits17", "3dsam_pancreas", "3dsam_colon"]
)
def test_a_recipe_trains_and_is_clicked_on_its_validation_fold(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if recipe == "3dsam_kits21":
        kits(tmp_path / "data")
    elif recipe == "3dsam_colon":
        msd(tmp_path / "data", {"0": "background", "1": "colon cancer primaries"})
    else:
        msd(tmp_path / "data", {"0": "background", "1": "organ", "2": "cancer"})
    words = [f"experiment={recipe}", f"data.root={tmp_path / 'data'}", f"run={tmp_path / 'run'}"]
    assert main(["train", *words, *TINY]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["data"]["fold"], config["data"]["folds"]) == (0, 5)
    assert config["optimizer"]["lr"] == 4e-4

    quick = ["settings.baselines=[]", "settings.robustness.cases=0", "prompt.counts=[1,2]"]
    words = [f"run={tmp_path / 'run'}", f"data.root={tmp_path / 'data'}", "split=val"]
    assert main(["eval", *words, "settings.scoring.tolerance_mm=5", *quick]) == 0
    summary = json.loads((tmp_path / "run" / "eval" / "val" / "summary.json").read_text())
    assert set(summary["rows"]) == {"adapted", "adapted_2_clicks"}
    assert summary["rows"]["adapted"]["prompt"] == "1 oracle click per class and volume"
    assert "at 5 mm" in summary["definitions"]["nsd"]
    assert [entry["name"] for entry in summary["classes"].values()] == ["tumour"]
    # tumours only: the organ around them is no target
    assert summary["interactions"]["adapted"]["objects"] == summary["cases"] > 0
