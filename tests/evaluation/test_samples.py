"""Cases are read as in training, and go by names that may be published."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data.datamodule import SampleSpec
from segkit.data.datasets import find_cases
from segkit.data.label_options import LabelOptions
from segkit.errors import InputError
from segkit.evaluation.samples import SampleReader

LABELS = {1: "front", 2: "back"}


def test_a_volume_keeps_its_grid(data_root: Path) -> None:
    case = find_cases(data_root).cases["train"][0]
    sample = SampleReader(LABELS).read(case)
    assert sample.id == "case_001"
    assert sample.reference.shape == sample.source.array.shape == (6, 28, 20)
    assert sample.spacing_mm == pytest.approx((3.0, 1.0, 1.5))
    assert sample.unit == "mm"
    assert set(np.unique(sample.reference)) == {0, 1, 2}


def test_names_can_be_hashed(data_root: Path) -> None:
    cases = find_cases(data_root).cases["train"]
    samples = list(SampleReader(LABELS, is_hashed=True).all(cases))
    assert len({sample.id for sample in samples}) == 6
    assert not any("case" in sample.id or "case" in sample.group for sample in samples)


def test_progress_counts_cases(data_root: Path) -> None:
    seen: list[tuple[int, int]] = []
    cases = find_cases(data_root).cases["train"][:2]
    list(SampleReader(LABELS).all(cases, lambda done, total: seen.append((done, total))))
    assert seen == [(0, 2), (1, 2), (2, 2)]


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    for folder in ("train/images", "train/labels"):
        (tmp_path / folder).mkdir(parents=True)
    ids = np.zeros((8, 9), dtype=np.uint8)
    ids[1:3, 1:4], ids[4:7, 5:8] = 7, 9
    Image.fromarray(ids * 20).save(tmp_path / "train/images/one.png")
    Image.fromarray(ids).save(tmp_path / "train/labels/one.png")
    return tmp_path


def test_instances_become_one_class(cells: Path) -> None:
    dataset = find_cases(cells, labels={1: "cell"})
    reader = SampleReader(dataset.labels, samples=SampleSpec(instances=True))
    sample = reader.read(dataset.cases["train"][0])
    assert set(np.unique(sample.reference)) == {0, 1}
    assert sample.instances is not None
    assert set(np.unique(sample.instances)) == {0, 7, 9}
    assert sample.unit == "px"
    assert sample.spacing_mm == (1.0, 1.0)


def test_ignored_voxels_are_marked(cells: Path) -> None:
    dataset = find_cases(cells, labels={1: "cell"})
    options = LabelOptions(mapping={7: 1}, ignore=9)
    sample = SampleReader(dataset.labels, samples=SampleSpec(label_options=options)).read(
        dataset.cases["train"][0]
    )
    assert set(np.unique(sample.reference)) == {0, 1}
    assert sample.ignored is not None
    assert sample.ignored.sum() == 9


def test_cases_without_reference_are_refused(data_root: Path) -> None:
    case = replace(find_cases(data_root).cases["train"][0], label=None)
    with pytest.raises(InputError, match="'case_001' has no reference; evaluation needs labels"):
        SampleReader(LABELS).read(case)


def test_several_images_need_a_choice(data_root: Path) -> None:
    case = find_cases(data_root).cases["train"][0]
    double = replace(case, image=case.image * 2)
    with pytest.raises(
        InputError, match=r"has 2 images, got channel=None; choose one with channel"
    ):
        SampleReader(LABELS, ("T1", "T2")).read(double)
    named = SampleReader(LABELS, ("T1", "T2"), SampleSpec(channel="T2"))
    assert named.read(double).source.array.shape == (6, 28, 20)
    with pytest.raises(InputError, match=r"no channel 'CT'; allowed: \['T1', 'T2'\], or a number"):
        SampleReader(LABELS, ("T1", "T2"), SampleSpec(channel="CT")).read(double)
