"""A small data set on disk and in memory, and tiny models, automatic and interactive."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segkit.data.preprocess import InputSpec, Intensity
from segkit.data.volume import Picture, Volume
from segkit.evaluation.samples import Sample
from segkit.geometry import Geometry
from segkit.models import build
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo

LABELS = {1: "front", 2: "back"}
SPACING = (3.0, 1.0, 1.5)  # k j i


def labels_of(number: int) -> np.ndarray:
    """An ellipsoid in two halves whose centre depends on the number of the case."""
    k, j, i = np.ogrid[:6, :28, :20]
    rows, cols = 13 + number % 3, 9 + number % 2
    inside = ((k - 2.5) / 2.6) ** 2 + ((j - rows) / (9 - number / 5)) ** 2 + (
        (i - cols) / 6
    ) ** 2 < 1
    return np.where(inside, np.where(j < rows, 1, 2), 0).astype(np.uint8)


def image_of(labels: np.ndarray, number: int) -> np.ndarray:
    noise = np.random.default_rng(number).normal(0, 6, labels.shape)
    return (60 + 50.0 * labels + noise).astype(np.int16)


@pytest.fixture
def volume_sample() -> Callable[[int], Sample]:
    def make(number: int = 0) -> Sample:
        labels = labels_of(number)
        affine = np.diag([*SPACING[::-1], 1.0])
        source = Volume(image_of(labels, number), Geometry(labels.shape, affine))
        return Sample(f"case_{number}", f"subject_{number // 2}", source, labels)

    return make


@pytest.fixture
def picture_sample() -> Sample:
    """Three discs of class 1 on a colour picture without spacing; two of them touch."""
    rows, cols = np.ogrid[:40, :52]
    ids = np.zeros((40, 52), dtype=np.uint8)
    for number, (row, col, radius) in enumerate(((10, 10, 6), (10, 22, 6), (28, 38, 8)), start=1):
        ids[(rows - row) ** 2 + (cols - col) ** 2 <= radius**2] = number
    image = np.repeat((40 + 150 * (ids > 0))[..., None], 3, axis=2).astype(np.uint8)
    reference = (ids > 0).astype(np.uint8)
    return Sample("discs", "discs", Picture(image), reference, instances=ids)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MSD layout: six training and five test cases; the last test case has no foreground."""
    root = tmp_path_factory.mktemp("evaluation") / "data"
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (root / folder).mkdir(parents=True)
    affine = np.diag([*SPACING[::-1], 1.0])
    entries: dict[str, list[object]] = {"training": [], "test": []}
    for number in range(11):
        part = "Tr" if number < 6 else "Ts"
        labels = labels_of(number) * (number != 10)
        name = f"case_{number + 1:03d}.nii.gz"
        for folder, array in (("images", image_of(labels, number)), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(array.T, affine), root / f"{folder}{part}" / name)
        pair = {"image": f"./images{part}/{name}", "label": f"./labels{part}/{name}"}
        entries["training" if number < 6 else "test"].append(pair if number < 6 else pair["image"])
    names = {"0": "background", **{str(value): name for value, name in LABELS.items()}}
    (root / "dataset.json").write_text(json.dumps({"labels": names, **entries}))
    return root


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A new run folder of an untrained tiny model, automatic or interactive."""

    def make(is_automatic: bool) -> Path:
        folder = tmp_path_factory.mktemp("automatic" if is_automatic else "interactive")
        segmenter = build.sam_tiny(classes=2 if is_automatic else None)
        spec = InputSpec(size=64, intensity=Intensity("percentile"))
        info = ModelInfo.of(segmenter, labels=LABELS, input=spec)
        save_adapter(folder / "adapter.safetensors", segmenter, info)
        return folder

    return make
