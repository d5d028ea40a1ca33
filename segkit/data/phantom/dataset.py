"""A generated data set on disk, in the folder layout of the Medical Segmentation Decathlon."""

import json
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float

from segkit.data.phantom.volume import LABELS, PhantomVolume, Structure, phantom_volume


def write_phantom_dataset(
    folder: Path | str,
    *,
    cases: int = 20,
    test_cases: int = 6,
    seed: int = 0,
    structure: Structure = "lesion",
    shape: tuple[int, int, int] | None = None,
) -> Path:
    """Write generated volumes with labels and return the folder.

    Layout: `dataset.json`, `imagesTr`, `labelsTr` (`cases` volumes), `imagesTs`, `labelsTs`
    (`test_cases`), all `.nii.gz`. The volumes have oblique affines with different axis directions.
    Existing files of the same names are replaced.

    Args:
        folder: made if it does not exist.
        cases: number of training volumes, at least 1.
        test_cases: number of test volumes.
        seed: the same seed writes the same voxels.
        structure: see `phantom_volume`.
        shape: voxels (k, j, i) of each volume, else variable.

    Raises:
        ValueError: a negative number of cases, or none to train on.
    """
    if cases < 1 or test_cases < 0:
        raise ValueError(f"cases must be >= 1 and test_cases >= 0, got {cases} and {test_cases}")
    root = Path(folder)
    splits = {"Tr": range(cases), "Ts": range(cases, cases + test_cases)}
    entries: dict[str, list[dict[str, str]]] = {}
    for split, numbers in splits.items():
        entries[split] = []
        for number in numbers:
            volume = phantom_volume((seed, number), structure=structure, shape=shape)
            entries[split].append(_write_case(root, split, number, volume, seed))
    names = {"0": "background"} | {str(value): name for value, name in LABELS[structure].items()}
    document = {
        "name": "Phantom",
        "description": "Generated volumes: an organ among neighbours",
        "reference": f"segkit.data.phantom, seed {seed}",
        "licence": "CC0 1.0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": names,
        "numTraining": cases,
        "numTest": test_cases,
        "training": entries["Tr"],
        "test": entries["Ts"],
    }
    (root / "dataset.json").write_text(json.dumps(document, indent=1) + "\n")
    return root


def _write_case(
    root: Path, split: str, number: int, volume: PhantomVolume, seed: int
) -> dict[str, str]:
    affine = _affine(volume, np.random.default_rng((seed, number, 1)))
    entry = {}
    for key, voxels in (("image", volume.array), ("label", volume.labels)):
        name = f"{key}s{split}/phantom_{number:03d}.nii.gz"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if affine[0, 0] < 0:  # stored the other way round; the anatomy is the same
            voxels = voxels[:, ::-1, ::-1]
        image = nibabel.Nifti1Image(np.ascontiguousarray(voxels.transpose(2, 1, 0)), affine)
        # single-precision quaternions would contradict the sform by some thousandths of a voxel
        image.set_sform(affine, 1)
        image.set_qform(affine, 0)
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, path)
        entry[key] = f"./{name}"
    return entry


def _affine(volume: PhantomVolume, rng: np.random.Generator) -> Float[np.ndarray, "4 4"]:
    """Voxel (i, j, k) to RAS mm: a small turn about z, and x and y reversed in every other case."""
    turn = rng.uniform(-0.15, 0.15)
    sign = -1.0 if rng.random() < 0.5 else 1.0
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([sign, sign, 1.0]) @ np.diag(volume.spacing_mm[::-1])
    affine[:3, 3] = rng.uniform(-60, 60, 3)
    return affine
