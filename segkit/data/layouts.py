"""Data sets arranged by folders alone: KiTS, image and label folders, one folder per patient."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from segkit.data.cases import Case, Found, Layout, files_in, shorten, stem
from segkit.errors import InputError

_IMAGE_FOLDERS = ("images", "frames", "imgs")
_LABEL_FOLDERS = ("masks", "labels")
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# endings some tools add to the name of a label
_LABEL_MARK = re.compile(r"[ _-](mask|label|seg|segmentation|annotation|gt)$", re.IGNORECASE)


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def _image_folder(parent: Path) -> Path | None:
    present = [parent / name for name in _IMAGE_FOLDERS if (parent / name).is_dir()]
    if len(present) > 1:
        raise InputError(
            f"several image folders: {shorten([path.name for path in present])}",
            path=parent,
            fix=f"keep one of {', '.join(_IMAGE_FOLDERS)}",
            code="layout",
        )
    return present[0] if present else None


def _label_folder(parent: Path, wanted: str | None) -> Path | None:
    """The label folder beside the images; asked for by name, it must exist."""
    if wanted is not None:
        if not (parent / wanted).is_dir():
            names = [path.name for path in _folders(parent)]
            raise InputError(
                f"no label folder {wanted!r}; found {shorten(names) or 'no folder'}",
                path=parent,
                fix="choose one of these with label_folder=...",
                code="layout",
                option="label_folder",
            )
        return parent / wanted
    present = [parent / name for name in _LABEL_FOLDERS if (parent / name).is_dir()]
    if len(present) > 1:
        raise InputError(
            f"several label folders: {shorten([path.name for path in present])}",
            path=parent,
            fix="choose one with label_folder=...",
            code="layout",
            option="label_folder",
        )
    return present[0] if present else None


def _by_stem(folder: Path, *, strip_mark: bool = False) -> dict[str, Path]:
    """Files by name without ending; two files of one name are refused."""
    found: dict[str, Path] = {}
    for path in files_in(folder):
        name = _LABEL_MARK.sub("", stem(path)) if strip_mark else stem(path)
        if name in found:
            raise InputError(
                f"{found[name].name} and {path.name} both belong to case {name!r}",
                path=folder,
                fix="keep one of them",
                code="layout",
            )
        found[name] = path
    return found


def _pair(
    parent: Path, wanted: str | None, group: str | None = None
) -> tuple[list[Case], list[str]]:
    """Cases of one images + labels pair of folders, and the labels that have no image."""
    images_in, labels_in = _image_folder(parent), _label_folder(parent, wanted)
    images = _by_stem(images_in) if images_in else {}
    labels = _by_stem(labels_in) if labels_in else {}
    if not images.keys() & labels.keys() and labels_in:
        labels = _by_stem(labels_in, strip_mark=True)
    prefix = f"{group}_" if group else ""
    cases = [
        Case(prefix + name, (path,), labels.get(name), group or name)
        for name, path in images.items()
    ]
    return cases, [prefix + name for name in labels if name not in images]


def _splits(root: Path) -> Iterator[tuple[str, Path]]:
    """Split folders under `root` with our name for them; two names for one split are refused."""
    for split, names in _SPLITS.items():
        present = [root / name for name in names if (root / name).is_dir()]
        if len(present) > 1:
            raise InputError(
                f"several folders for {split}: {shorten([path.name for path in present])}",
                path=root,
                fix="keep one of them",
                code="layout",
            )
        if present:
            yield split, present[0]


def _has_images(parent: Path) -> bool:
    return any((parent / name).is_dir() for name in _IMAGE_FOLDERS)


def _split_folders(root: Path) -> list[Path]:
    return [root / name for names in _SPLITS.values() for name in names if (root / name).is_dir()]


def _fits_folders(root: Path) -> bool:
    return _has_images(root) or any(_has_images(folder) for folder in _split_folders(root))


def _fits_patients(root: Path) -> bool:
    return any(_has_images(p) for split in _split_folders(root) for p in _folders(split))


def _read_folders(root: Path, label_folder: str | None) -> Found:
    parents = [(split, path) for split, path in _splits(root) if _has_images(path)]
    if _has_images(root):
        if parents:
            raise InputError(
                f"images at the top and in {shorten([path.name for _, path in parents])}",
                path=root,
                fix="keep one arrangement: images/ + masks/, or train/ and test/ with both",
                code="layout",
            )
        parents = [("train", root)]
    pairs = {split: _pair(parent, label_folder) for split, parent in parents}
    return Found(
        cases={split: tuple(cases) for split, (cases, _) in pairs.items()},
        orphans=tuple(name for _, orphans in pairs.values() for name in orphans),
    )


def _read_patients(root: Path, label_folder: str | None) -> Found:
    cases: dict[str, tuple[Case, ...]] = {}
    orphans: list[str] = []
    for split, folder in _splits(root):
        found: list[Case] = []
        for patient in filter(_has_images, _folders(folder)):
            pairs, lone = _pair(patient, label_folder, patient.name)
            found += pairs
            orphans += lone
        cases[split] = tuple(found)
    return Found(cases=cases, orphans=tuple(orphans), is_grouped=True)


def _one_of(folder: Path, name: str) -> Path | None:
    return next((path for path in files_in(folder) if stem(path) == name), None)


def _kits_folders(root: Path) -> Sequence[Path]:
    return [path for path in _folders(root) if re.fullmatch(r"case_\d+", path.name)]


def _read_kits(root: Path, label_folder: str | None) -> Found:
    if label_folder is not None:
        raise InputError(
            f"layout 'kits' has no label folders, got label_folder={label_folder!r}",
            path=root,
            fix="leave label_folder out",
            option="label_folder",
        )
    cases, orphans = [], []
    for folder in _kits_folders(root):
        image = _one_of(folder, "imaging")
        # KiTS21 holds several annotations and their majority
        label = _one_of(folder, "segmentation") or _one_of(folder, "aggregated_MAJ_seg")
        if image is not None:
            cases.append(Case(folder.name, (image,), label, folder.name))
        elif label is not None:
            orphans.append(folder.name)
    return Found(
        cases={"train": tuple(cases)},
        labels={1: "kidney", 2: "tumor", 3: "cyst"},
        orphans=tuple(orphans),
    )


KITS = Layout(
    "kits",
    "case_00000/{imaging,segmentation}.nii.gz",
    lambda root: bool(_kits_folders(root)),
    _read_kits,
)
FOLDERS = Layout(
    "folders",
    "images/ + masks/ or labels/, at the top or in train/ and test/",
    _fits_folders,
    _read_folders,
)
PATIENTS = Layout(
    "patients",
    "train/<patient>/{frames,masks}/ and test/<patient>/{frames,masks}/",
    _fits_patients,
    _read_patients,
)
