"""Find the cases of a data set: which image belongs to which label, which split and which subject.

Nothing is opened here except `dataset.json`; reading voxels is the business of the cache. Findings
that would spoil a training run without a message (an image without a label, one subject on both
sides of a split, the same label under two names) are refused or warned about at this point.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from segkit.data import layouts, manifests
from segkit.data.cases import Case, Found, shorten
from segkit.data.duplicates import identical_files
from segkit.errors import DataWarning, InputError

PAIRS = "pairs"
_LAYOUTS = (manifests.MSD, manifests.NNUNET, layouts.KITS, layouts.FOLDERS, layouts.PATIENTS)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Cases by split ("train", "test", where shipped also "val") and the label table.

    `labels` are names by voxel value, without background, and always 1..K. `channels` names the
    images of a case. `folds` are shipped cross-validation folds as (train ids, validation ids).
    `is_grouped` says whether `Case.group` was declared (by the layout or by `group_by`).
    """

    root: Path
    layout: str
    cases: Mapping[str, tuple[Case, ...]]
    labels: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({1: "object"}))
    channels: tuple[str, ...] = ()
    folds: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()
    is_grouped: bool = False


def find_cases(
    root: str | Path,
    layout: str = "auto",
    *,
    group_by: str | None = None,
    label_folder: str | None = None,
    labels: Mapping[int, str] | None = None,
    allow_unpaired: bool = False,
    keep_unlabelled: bool = False,
) -> Dataset:
    """List the cases under `root`.

    `layout` is "auto" or one of "msd" (dataset.json with a list `training`), "nnunet"
    (dataset.json with `channel_names`), "kits" (case_*/imaging + segmentation), "folders"
    (images/ beside masks/ or labels/, at the top or in train/ and test/) and "patients"
    (train/<patient>/frames + masks; one case per frame, the patient is the group).

    `group_by` names the subject of a case, so that no split separates two scans of one subject: a
    regular expression searched in the case id whose group named "subject" (or first group) is the
    subject, or "pairs": the number n in the id belongs to subject (n + 1) // 2, as in the
    hippocampus set of the Medical Segmentation Decathlon, where ids 2k-1 and 2k are the left and
    the right side of subject k and a split by file would leak.

    `label_folder` picks a label folder by name where several exist (a second observer), `labels`
    gives names by voxel value where the layout has none, `allow_unpaired` leaves out cases without
    a label and labels without an image instead of refusing them; `keep_unlabelled` keeps images
    without a label, for clips that are labelled on some frames only.

    Warns:
        DataWarning: Byte-identical labels under two ids, or identical images in two splits.

    Raises:
        InputError: Unknown or ambiguous layout, unpaired files, a subject in two splits, or a
            label table that is not 1..K.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError("this is not a folder", path=root, fix="give the folder of a data set")
    chosen = _choose(root, layout)
    found = chosen.read(root, label_folder)
    if group_by is not None:
        found = _regroup(found, group_by)
    found = _only_pairs(root, found, allow_unpaired, keep_unlabelled)
    dataset = Dataset(
        root=root,
        layout=chosen.name,
        cases=MappingProxyType(found.cases),
        labels=MappingProxyType(_label_table(root, dict(labels or found.labels))),
        channels=found.channels,
        folds=found.folds,
        is_grouped=found.is_grouped or group_by is not None,
    )
    _refuse_empty(dataset)
    _refuse_shared_subjects(dataset)
    _warn_of_duplicates(dataset)
    return dataset


def _choose(root: Path, layout: str) -> layouts.Layout:
    """The layout asked for, or the only one that fits."""
    by_name = {known.name: known for known in _LAYOUTS}
    sketches = "; ".join(f"{known.name}: {known.sketch}" for known in _LAYOUTS)
    if layout != "auto":
        if layout not in by_name:
            raise InputError(f"unknown layout {layout!r}", fix=f"allowed: auto; {sketches}")
        return by_name[layout]
    fitting = [known for known in _LAYOUTS if known.fits(root)]
    if len(fitting) == 1:
        return fitting[0]
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    what = (
        f"several layouts fit ({', '.join(known.name for known in fitting)})"
        if fitting
        else "no known layout"
    )
    raise InputError(
        f"{what}; found {shorten(entries) or 'an empty folder'}; allowed are {sketches}",
        path=root,
        fix="choose one with layout=..." if fitting else "rearrange the files or link them so",
        code="layout",
        option="layout",
    )


def _regroup(found: Found, group_by: str) -> Found:
    subject = _pair_subject if group_by == PAIRS else _pattern_subject(group_by)
    named = {
        split: tuple(replace(case, group=subject(case.id)) for case in cases)
        for split, cases in found.cases.items()
    }
    return replace(found, cases=named)


def _pair_subject(case_id: str) -> str:
    if (match := re.search(r"^(.*?)(\d+)(\D*)$", case_id)) is None:
        raise InputError(
            f"group_by='pairs' needs a number in every case id, got {case_id!r}",
            fix="use a regular expression whose first group is the subject",
            option="group_by",
        )
    return f"{match[1]}{(int(match[2]) + 1) // 2}"


def _pattern_subject(pattern: str) -> Callable[[str], str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"group_by={pattern!r} is not a regular expression ({error})",
            fix=r"example: '^(?P<subject>[^_]+)'",
            option="group_by",
        ) from error
    if not compiled.groups:
        raise InputError(
            f"group_by={pattern!r} has no group",
            fix=r"put the part that names the subject in parentheses: '^([^_]+)'",
            option="group_by",
        )
    which: str | int = "subject" if "subject" in compiled.groupindex else 1

    def subject(case_id: str) -> str:
        match = compiled.search(case_id)
        if match is None or match[which] is None:
            raise InputError(
                f"group_by={pattern!r} finds no subject in case id {case_id!r}",
                fix="widen the expression so that it matches every case id",
                option="group_by",
            )
        return str(match[which])

    return subject


def _only_pairs(root: Path, found: Found, allow_unpaired: bool, keep_unlabelled: bool) -> Found:
    """Refuse or leave out what has no partner; test cases may come without labels."""
    bare = [
        case.id
        for split, cases in found.cases.items()
        for case in cases
        if case.label is None and split != "test" and not keep_unlabelled
    ]
    if not allow_unpaired and (bare or found.orphans):
        parts = [
            f"{len(ids)} {what} ({shorten(ids)})"
            for ids, what in (
                (bare, "images without label"),
                (found.orphans, "labels without image"),
            )
            if ids
        ]
        raise InputError(
            " and ".join(parts),
            path=root,
            fix="complete the pairs, or leave these out with allow_unpaired=True",
            code="unpaired",
            option="allow_unpaired",
        )
    kept = {
        split: tuple(case for case in cases if case.label or keep_unlabelled or split == "test")
        for split, cases in found.cases.items()
    }
    return replace(found, cases=kept)


def _label_table(root: Path, labels: dict[int, str]) -> dict[int, str]:
    if sorted(labels) != list(range(1, len(labels) + 1)):
        raise InputError(
            f"label values must be 1, 2, ..., got {dict(sorted(labels.items()))}",
            path=root,
            fix="renumber the labels; background is 0 and is not listed",
            code="labels",
        )
    return {value: labels[value] for value in sorted(labels)}


def _refuse_empty(dataset: Dataset) -> None:
    if not dataset.cases.get("train") and not dataset.cases.get("test"):
        raise InputError(
            f"layout {dataset.layout!r} fits, but there is no case",
            path=dataset.root,
            fix="check that the image folder holds images and that labels have the same names",
            code="no_cases",
        )


def _refuse_shared_subjects(dataset: Dataset) -> None:
    if not dataset.is_grouped:
        return
    groups = {split: {case.group for case in cases} for split, cases in dataset.cases.items()}
    fitted = groups.get("train", set()) | groups.get("val", set())
    for one, other, shared in (
        ("train or val", "test", fitted & groups.get("test", set())),
        ("train", "val", groups.get("train", set()) & groups.get("val", set())),
    ):
        if shared:
            raise InputError(
                f"{len(shared)} subjects are in {one} and in {other} ({shorten(sorted(shared))})",
                path=dataset.root,
                fix="move each subject to one side, or correct group_by",
                code="group_leak",
                option="group_by",
            )


def _warn_of_duplicates(dataset: Dataset) -> None:
    everything = [(split, case) for split, cases in dataset.cases.items() for case in cases]
    names = {case.label: f"{split} {case.id}" for split, case in everything if case.label}
    if twins := identical_files(list(names)):
        pairs = [" = ".join(names[path] for path in twin) for twin in twins]
        warnings.warn(
            f"{dataset.root}: byte-identical labels under different ids: {shorten(pairs)}; "
            "check for copies",
            DataWarning,
            stacklevel=3,
        )
    images = {path: (split, case.id) for split, case in everything for path in case.image}
    across = [
        " = ".join(" ".join(images[path]) for path in twin)
        for twin in identical_files(list(images))
        if len({images[path][0] for path in twin}) > 1
    ]
    if across:
        warnings.warn(
            f"{dataset.root}: identical images in two splits: {shorten(across)}; "
            "results on the second split would be too good",
            DataWarning,
            stacklevel=3,
        )
