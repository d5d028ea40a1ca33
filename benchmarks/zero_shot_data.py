"""Objects of the real data sets: one image and one mask each, a subject for the intervals."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

SEED = 20


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One object: image `[h, w, 3]`, its mask, and the subject (or image) it belongs to."""

    subject: str
    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]


def _picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    return np.asarray(Image.open(path).convert("RGB"))


def _choose(paths: list[Path], limit: int) -> list[Path]:
    """A fixed random choice of at most `limit` files."""
    paths = sorted(paths)
    order = np.random.default_rng(SEED).permutation(len(paths))[:limit]
    return [paths[index] for index in sorted(order)]


def _masked(folder: str, split: str = "test") -> Callable[[Path, int], Iterator[Item]]:
    def items(root: Path, limit: int) -> Iterator[Item]:
        base = root / "2d" / folder / split
        for path in _choose(list((base / "masks").iterdir()), limit):
            image = next((base / "images").glob(path.stem + ".*"))
            yield Item(path.stem, _picture(image), np.asarray(Image.open(path).convert("L")) > 127)

    return items


def _nuclei(root: Path, limit: int) -> Iterator[Item]:
    """Two nuclei of at least 30 pixels from each image."""
    base = root / "2d" / "dsb2018_nuclei" / "test"
    rng = np.random.default_rng(SEED)
    for path in _choose(list((base / "labels").iterdir()), limit):
        labels = np.asarray(Image.open(path)).astype(np.int64)
        pixels = np.bincount(labels.ravel())
        large = [value for value in range(1, len(pixels)) if pixels[value] >= 30]
        image = _picture(base / "images" / path.name)
        for value in rng.choice(large, min(2, len(large)), replace=False):
            yield Item(path.stem, image, labels == value)


def _hippocampus(root: Path, limit: int, part: str = "Ts") -> Iterator[Item]:
    """One axial slice of each volume and one of its two parts, of at least 30 voxels."""
    base = root / "3d" / "Task04_Hippocampus"
    rng = np.random.default_rng(SEED)
    for path in _choose(list((base / f"labels{part}").glob("hippo*.nii.gz")), limit):
        labels = np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)
        voxels = np.asarray(nibabel.load(base / f"images{part}" / path.name).dataobj, np.float32)
        places = [
            (k, value)
            for value in (1, 2)
            for k in range(len(labels))
            if (labels[k] == value).sum() >= 30
        ]
        k, value = places[rng.integers(len(places))]
        low, high = np.percentile(voxels, (0.5, 99.5))
        plane = np.clip((voxels.transpose(2, 1, 0)[k] - low) / (high - low), 0, 1)
        image = np.repeat(np.rint(255 * plane).astype(np.uint8)[..., None], 3, axis=2)
        subject = (int(path.name[12:15]) + 1) // 2
        yield Item(str(subject), image, labels[k] == value)


def _cine(root: Path, limit: int) -> Iterator[Item]:
    """Frames with a ventricle of at least 50 pixels; the patient is the subject."""
    base = root / "video" / "sunnybrook_cine_lv" / "test"
    with (base / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["lv_area_px"]) >= 50]
    order = np.random.default_rng(SEED).permutation(len(rows))[:limit]
    for index in sorted(order):
        patient, frame = rows[index]["patient"], rows[index]["frame"]
        mask = np.asarray(Image.open(base / patient / "masks" / frame).convert("L")) > 127
        yield Item(patient, _picture(base / patient / "frames" / frame), mask)


SETS: dict[str, Callable[[Path, int], Iterator[Item]]] = {
    "polyps": _masked("kvasir_polyp"),
    "heads": _masked("hc18_fetal_head"),
    "nuclei": _nuclei,
    "vessels": _masked("chase_db1_vessels"),
    "hippocampus": _hippocampus,
    "cine": _cine,
}

TRAINING_SETS: dict[str, Callable[[Path, int], Iterator[Item]]] = {
    "polyps": _masked("kvasir_polyp", "train"),
    "heads": _masked("hc18_fetal_head", "train"),
    "hippocampus": partial(_hippocampus, part="Tr"),
}
"""The training halves of sets whose subjects are all in one half."""
