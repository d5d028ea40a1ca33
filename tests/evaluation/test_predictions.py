import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segkit.data.datasets import find_cases
from segkit.data.preprocess import InputSpec
from segkit.errors import InputError
from segkit.evaluation import EvaluationSettings, Others, Resampling, Scoring, evaluate
from segkit.evaluation.cohort import labelled_cases
from segkit.evaluation.others import named
from segkit.evaluation.predictions import PredictionFolder
from segkit.evaluation.samples import SampleReader
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo

LABELS = {1: "front", 2: "back"}
QUICK = EvaluationSettings(scoring=Scoring(resampling=Resampling(resamples=200)), baselines=())


@pytest.fixture
def perfect(data_root: Path, tmp_path: Path) -> Path:
    """Predictions that equal the references, named as nnU-Net names them."""
    return Path(shutil.copytree(data_root / "labelsTs", tmp_path / "nnunet"))


def test_predictions_alone_are_a_table(perfect: Path, data_root: Path, tmp_path: Path) -> None:
    found = evaluate(
        None,
        data_root,
        settings=replace(QUICK, baselines=("box_ellipse",)),
        others=Others(predictions=named(perfect)),
        out=tmp_path / "out",
    )
    assert set(found.summary["rows"]) == {"nnunet", "box_ellipse"}
    assert found.summary["headline"] == "nnunet"
    assert found.summary["mean"]["dice"]["mean"] == 1.0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["model"] == "nnunet"
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_run_is_compared_with_predictions_and_another_run_in_pairs(
    perfect: Path, data_root: Path, make_run: Callable[[bool], Path]
) -> None:
    run = make_run(True)
    others = Others({"twin": run}, {"nnunet": perfect})
    found = evaluate(run, data_root, settings=QUICK, others=others)
    rows = found.summary["rows"]
    assert list(rows) == ["zero_shot", "adapted", "twin", "nnunet"]
    assert rows["twin"]["mean"] == rows["adapted"]["mean"]
    pair = found.summary["differences"]["adapted - nnunet"]["dice"]
    assert pair["mean"] < 0
    assert pair["ci95"][1] < 0
    assert pair["subjects"] == 5
    assert 0 < pair["p_wilcoxon"] < 0.1


def test_masks_by_class_in_a_folder_per_case(perfect: Path, data_root: Path) -> None:
    cases = labelled_cases(find_cases(data_root), "test")
    folder = perfect.parent / "totalsegmentator"
    for case in cases:
        labels = nibabel.load(perfect / f"{case.id}.nii.gz")
        (folder / case.id).mkdir(parents=True)
        array = np.asarray(labels.dataobj)
        for value, name in LABELS.items():
            if (array == value).any():  # an empty class may be missing
                mask = nibabel.Nifti1Image((array == value).astype(np.uint8), labels.affine)
                nibabel.save(mask, folder / case.id / f"{name}.nii.gz")
    reader = SampleReader(LABELS)
    found = PredictionFolder.find(folder, cases, reader)
    for case in cases:
        sample = reader.read(case)
        assert (found(sample) == sample.reference).all()


def test_hashed_cases_find_their_predictions(perfect: Path, data_root: Path) -> None:
    cases = labelled_cases(find_cases(data_root), "test")
    reader = SampleReader(LABELS, is_hashed=True)
    found = PredictionFolder.find(perfect, cases, reader)
    sample = reader.read(cases[0])
    assert (found(sample) == sample.reference).all()


def test_every_misfit_is_told_by_file(perfect: Path, data_root: Path) -> None:
    for name, change in (("case_007", np.s_[1:]), ("case_009", np.s_[:])):
        path = perfect / f"{name}.nii.gz"
        old = nibabel.load(path)
        affine = old.affine if name == "case_007" else old.affine + np.eye(4, 4, 3) * 2.0
        nibabel.save(nibabel.Nifti1Image(np.asarray(old.dataobj)[change], affine), path)
    with pytest.raises(InputError, match="2 of 5 predictions do not fit their images") as caught:
        evaluate(None, data_root, settings=QUICK, others=Others(predictions=named(perfect)))
    assert "case_007.nii.gz: " in str(caught.value)
    assert "case_009.nii.gz: " in str(caught.value)


def test_missing_predictions_and_folders_are_told(perfect: Path, data_root: Path) -> None:
    (perfect / "case_008.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 of 5 cases have no prediction \(case_008\); found"):
        evaluate(None, data_root, settings=QUICK, others=Others(predictions=named(perfect)))
    with pytest.raises(InputError, match="no such folder of predictions"):
        evaluate(None, data_root, settings=QUICK, others=Others(predictions={"a": "nowhere"}))


@pytest.mark.parametrize("name", ["adapted", "a/b"])
def test_names_of_rows_are_checked(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' cannot name a row"):
        Others(predictions={name: "x"})


def test_models_that_need_prompts_get_the_same_ones(
    data_root: Path, make_run: Callable[[bool], Path], tmp_path: Path
) -> None:
    run = make_run(False)
    twin = shutil.copytree(run, tmp_path / "twin")
    found = evaluate(run, data_root, settings=QUICK, others=Others({"twin": twin})).summary
    rows = found["rows"]
    assert rows["twin"]["is_oracle"]
    assert rows["twin"]["prompt"] == rows["adapted"]["prompt"]
    assert rows["twin"]["mean"] == rows["adapted"]["mean"]
    assert found["differences"]["adapted - twin"]["dice"]["mean"] == 0


def test_other_models_must_have_the_classes_of_the_data_set(
    data_root: Path, make_run: Callable[[bool], Path], tmp_path: Path
) -> None:
    segmenter = build.sam_tiny()
    info = ModelInfo.of(segmenter, labels={1: "heart"}, input=InputSpec(size=64))
    save_adapter(tmp_path / "heart.safetensors", segmenter, info)
    others = Others({"heart": tmp_path / "heart.safetensors"})
    with pytest.raises(InputError, match=r"'heart'.*those of the data set.*'front'"):
        evaluate(make_run(True), data_root, settings=QUICK, others=others)
