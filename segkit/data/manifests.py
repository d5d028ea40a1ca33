"""Data sets with a dataset.json: Medical Segmentation Decathlon (MSD) and nnU-Net version 2."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from segkit.data.cases import Case, Found, Layout, shorten, stem
from segkit.errors import InputError

_MOST_BYTES = 64 << 20


def read_json(path: Path) -> object:
    """Parse a JSON file.

    Raises:
        InputError: It is missing, larger than 64 MB or not JSON.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(
                f"{path.stat().st_size} bytes are too many for a list of cases",
                path=path,
                fix=f"at most {_MOST_BYTES} bytes are read",
                code="manifest",
            )
        return json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"this is not a readable JSON file ({error})",
            path=path,
            fix="restore it from the data set's archive",
            code="manifest",
        ) from error


def _manifest(root: Path) -> Mapping[str, object]:
    value = read_json(root / "dataset.json")
    if not isinstance(value, dict):
        raise _bad(root, f"expected an object, got {type(value).__name__}")
    return value


def _bad(root: Path, cause: str) -> InputError:
    return InputError(
        cause,
        path=root / "dataset.json",
        fix="see the keys of the MSD or nnU-Net v2 format",
        code="manifest",
    )


def _keys(root: Path) -> frozenset[str]:
    """Keys of dataset.json; none where there is no such file."""
    return frozenset(_manifest(root)) if (root / "dataset.json").is_file() else frozenset()


def _inside(root: Path, entry: str) -> Path:
    """A path of the manifest; it must stay below `root`."""
    relative = PurePosixPath(entry)
    if relative.is_absolute() or ".." in relative.parts or "\\" in entry or "\0" in entry:
        raise _bad(root, f"path {entry!r} leaves the data set")
    return root / relative


def _string(root: Path, value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(root, f"{where} must be a file name, got {value!r}")
    return value


def _require(root: Path, paths: list[Path]) -> None:
    if missing := [str(path.relative_to(root)) for path in paths if not path.is_file()]:
        raise InputError(
            f"{len(missing)} files named in dataset.json are missing ({shorten(missing)})",
            path=root,
            fix="unpack the data set again, or correct dataset.json",
            code="manifest",
        )


def _no_label_folder(root: Path, layout: str, label_folder: str | None) -> None:
    if label_folder is not None:
        raise InputError(
            f"layout {layout!r} names its labels itself, got label_folder={label_folder!r}",
            path=root,
            fix="leave label_folder out, or use layout='folders'",
            option="label_folder",
        )


def _msd_case(root: Path, entry: object, labels_in: str | None) -> Case:
    """One entry of `training` or `test`; without a label of its own look into `labels_in`."""
    pair = entry if isinstance(entry, dict) else {"image": entry}
    image = _inside(root, _string(root, pair.get("image"), "image"))
    label: Path | None = None
    if "label" in pair:
        label = _inside(root, _string(root, pair["label"], "label"))
    elif labels_in and (root / labels_in / image.name).is_file():
        label = root / labels_in / image.name
    _require(root, [image] if label is None else [image, label])
    return Case(stem(image), (image,), label, stem(image))


def _names(value: object) -> tuple[str, ...]:
    """Channel names of `modality` or `channel_names`, ordered by their number."""
    if not isinstance(value, dict):
        return ()
    return tuple(str(value[key]) for key in sorted(value, key=lambda key: (len(key), key)))


def _value(root: Path, value: object) -> int:
    """A label value; MSD writes it as text, nnU-Net as a number."""
    if isinstance(value, str) and value.isdigit():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, list):
        raise InputError(
            f"labels are regions made of several values, e.g. {value}",
            path=root / "dataset.json",
            fix="give each voxel one value: regions are not trained as such here",
            code="labels",
        )
    raise _bad(root, f"label values must be whole numbers, got {value!r}")


def _labels(root: Path, value: object, *, names_first: bool) -> dict[int, str]:
    """Names by value without background, from {"1": "liver"} or {"liver": 1}."""
    if not isinstance(value, dict) or not value:
        raise _bad(root, f"labels must be a table, got {value!r}")
    pairs = ((number, name) if names_first else (name, number) for name, number in value.items())
    table = {_value(root, number): str(name) for number, name in pairs}
    if "ignore" in table.values():
        raise InputError(
            "an 'ignore' label is declared",
            path=root / "dataset.json",
            fix="decide these voxels: every voxel is background or one class here",
            code="labels",
        )
    return {number: name for number, name in sorted(table.items()) if number != 0}


def _unique(root: Path, cases: list[Case]) -> tuple[Case, ...]:
    seen: dict[str, Case] = {}
    for case in cases:
        if case.id in seen:
            raise _bad(root, f"case {case.id!r} is listed twice in one split")
        seen[case.id] = case
    return tuple(seen.values())


def _read_msd(root: Path, label_folder: str | None) -> Found:
    _no_label_folder(root, "msd", label_folder)
    manifest = _manifest(root)
    splits: dict[str, tuple[Case, ...]] = {}
    for split, key, labels_in in (("train", "training", None), ("test", "test", "labelsTs")):
        entries = manifest.get(key, [])
        if not isinstance(entries, list):
            raise _bad(root, f"{key} must be a list, got {type(entries).__name__}")
        splits[split] = _unique(root, [_msd_case(root, entry, labels_in) for entry in entries])
    return Found(
        cases=splits,
        labels=_labels(root, manifest.get("labels"), names_first=False),
        channels=_names(manifest.get("modality")),
        orphans=_msd_orphans(root, splits["train"]),
    )


def _msd_orphans(root: Path, train: tuple[Case, ...]) -> tuple[str, ...]:
    """Labels in labelsTr that no entry names."""
    used = {case.label for case in train}
    folder = root / "labelsTr"
    names = sorted(folder.glob("[!.]*.nii*")) if folder.is_dir() else []
    return tuple(stem(path) for path in names if path not in used)


def _numbered(root: Path, folder: str, ending: str) -> dict[str, dict[int, Path]]:
    """Files `<case>_0000<ending>` by case and channel number."""
    pattern = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}")
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted((root / folder).iterdir()) if (root / folder).is_dir() else []:
        if (match := pattern.fullmatch(path.name)) and not path.name.startswith("."):
            found[match["case"]][int(match["channel"])] = path
    return dict(found)


def _nnunet_split(
    root: Path, suffix: str, ending: str, channels: int
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Cases of imagesTr or imagesTs, and labels without an image."""
    images = _numbered(root, f"images{suffix}", ending)
    labels_in = root / f"labels{suffix}"
    labels = {
        path.name.removesuffix(ending): path
        for path in (sorted(labels_in.iterdir()) if labels_in.is_dir() else [])
        if path.name.endswith(ending) and not path.name.startswith(".")
    }
    expected = list(range(channels))
    for name, files in images.items():
        if sorted(files) != expected:
            raise InputError(
                f"case {name!r} has channels {sorted(files)}, dataset.json declares {expected}",
                path=root / f"images{suffix}",
                fix="each case needs one file per channel: case_0000, case_0001, ...",
                code="unpaired",
            )
    cases = tuple(
        Case(name, tuple(files[number] for number in expected), labels.get(name), name)
        for name, files in sorted(images.items())
    )
    return cases, tuple(name for name in labels if name not in images)


def _read_nnunet(root: Path, label_folder: str | None) -> Found:
    _no_label_folder(root, "nnunet", label_folder)
    manifest = _manifest(root)
    channels = _names(manifest.get("channel_names"))
    if not channels:
        raise _bad(root, f"channel_names must be a table, got {manifest.get('channel_names')!r}")
    ending = _string(root, manifest.get("file_ending"), "file_ending")
    train, lone = _nnunet_split(root, "Tr", ending, len(channels))
    test, lone_test = _nnunet_split(root, "Ts", ending, len(channels))
    return Found(
        cases={"train": train, "test": test},
        labels=_labels(root, manifest.get("labels"), names_first=True),
        channels=channels,
        folds=_folds(root, {case.id for case in train}),
        orphans=lone + lone_test,
    )


def _folds(root: Path, known: set[str]) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """Folds of splits_final.json; every id must be a training case."""
    path = root / "splits_final.json"
    if not path.is_file():
        return ()
    value = read_json(path)
    folds = []
    for entry in value if isinstance(value, list) else [value]:
        sides = [entry.get(key) if isinstance(entry, dict) else None for key in ("train", "val")]
        if not all(isinstance(side, list) for side in sides):
            raise InputError(
                "expected a list of {'train': [ids], 'val': [ids]}",
                path=path,
                fix="write it again, or remove it to split by seed",
                code="manifest",
            )
        train, val = (frozenset(map(str, side)) for side in sides)  # type: ignore[arg-type]
        if unknown := sorted((train | val) - known) or sorted(train & val):
            raise InputError(
                f"ids that are no training case or stand on both sides: {shorten(unknown)}",
                path=path,
                fix="correct the ids, or remove the file to split by seed",
                code="manifest",
            )
        folds.append((train, val))
    return tuple(folds)


MSD = Layout(
    "msd",
    "dataset.json with the lists training and test, imagesTr/, labelsTr/",
    lambda root: "training" in _keys(root),
    _read_msd,
)
NNUNET = Layout(
    "nnunet",
    "dataset.json with channel_names and file_ending, imagesTr/case_0000.nii.gz, labelsTr/",
    lambda root: "channel_names" in _keys(root),
    _read_nnunet,
)
