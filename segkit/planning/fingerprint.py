"""The fingerprint of a data set: everything a plan is decided by, in plain numbers."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from segkit.data.cases import Case
from segkit.data.datasets import Dataset
from segkit.data.label_options import LabelOptions
from segkit.data.labels import read_labels
from segkit.data.readers import load
from segkit.errors import DataWarning, InputError
from segkit.planning.case_facts import CaseFacts, look_at

Progress = Callable[[int, int], None]

_SUBJECTS = (
    (r"^(.*\d)[ _-]?[LRlr]$", "ids end in L or R: two sides of one subject"),
    (r"^(.+?)[_-](?:left|right|od|os)\b", "ids name a side of the subject"),
    (r"^(.+?)[_-](?:frame|slice|img|image|scan|visit|view|t|s|z)?[_-]?\d+$", "ids count scans"),
)
"""What may name the subject in a case id, and why."""
_FEWEST_SUBJECTS = 5
_TRIALS = 3
_WITHOUT_NAMES = ("folders", "patients")  # layouts that bring no list of label values


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median and largest value over cases."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Sum up."""
        low, median, high = (round(float(one), 4) for one in np.percentile(values, [0, 50, 100]))
        return cls(low, median, high)


@dataclass(frozen=True, slots=True)
class Intensities:
    """Percentiles of the intensities inside all labels, and everywhere.

    `range_used`: share of the range of the data type that lies between the darkest and the
    brightest half percent of a case; 1 where the type has no range.
    """

    inside: tuple[float, float, float, float, float]  # 0.5, 5, 50, 95, 99.5 percent
    everywhere: tuple[float, float, float, float, float]
    dtype: str
    range_used: Spread


@dataclass(frozen=True, slots=True)
class ClassPrint:
    """One class over all cases that were looked at; see `ClassFacts` for the measures."""

    name: str
    cases: float  # share of the cases that have it
    voxels: float  # share of all labelled voxels
    objects: Spread
    objects_2d: Spread
    diameter_mm: Spread
    thickness_px: Spread
    fill: Spread


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A data set in numbers; triples are in array order (k, j, i) of the orientation RAS.

    `cases` and `subjects` count all splits; what is measured comes from the training cases that
    were `looked_at`. `damaged` says by case what cannot be read, `findings` what else deserves a
    look (copies, one label under two names). `instances` says that label values number objects.
    `group_by` is how subjects could be told from ids, and why.
    """

    layout: str
    modality: tuple[str, ...]
    dimensions: int
    cases: Mapping[str, int]
    subjects: Mapping[str, int]
    looked_at: int
    is_colour: bool
    has_spacing: bool
    spacing_mm: tuple[Spread, Spread, Spread]
    shape: tuple[Spread, Spread, Spread]
    slice_axis: int
    slices: int
    empty_slices: float
    intensity: Intensities
    classes: Mapping[int, ClassPrint]
    damaged: Mapping[str, str]
    findings: tuple[str, ...]
    instances: bool = False
    group_by: str | None = None
    group_reason: str = ""

    @property
    def plane(self) -> tuple[float, float]:
        """Median rows and columns of a slice, in pixels."""
        sides = [one.median for axis, one in enumerate(self.shape) if axis != self.slice_axis]
        return sides[0], sides[1]

    @property
    def plane_mm(self) -> tuple[float, float]:
        """Median distance of rows and of columns."""
        steps = [one.median for axis, one in enumerate(self.spacing_mm) if axis != self.slice_axis]
        return steps[0], steps[1]

    @property
    def slice_mm(self) -> float:
        """Median distance of slices."""
        return self.spacing_mm[self.slice_axis].median

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def take_fingerprint(
    dataset: Dataset,
    *,
    findings: Sequence[str] = (),
    most: int = 100,
    progress: Progress | None = None,
) -> Fingerprint:
    """Measure at most `most` training cases, spread over the set; the others are only counted.

    Raises:
        InputError: No training case with a label can be read.
    """
    labelled = [case for case in dataset.cases.get("train", ()) if case.label is not None]
    if len(labelled) > most:
        labelled = [labelled[n * len(labelled) // most] for n in range(most)]
    reader = _Reader(dataset, _are_ids(labelled, dataset))
    facts = []
    for number, case in enumerate(labelled, start=1):
        facts += reader.look(case)
        if progress is not None:
            progress(number, len(labelled))
    if not facts:
        first = next(iter(reader.damaged.values()), "there is none")
        raise InputError(
            f"no training case with a label can be read ({first})",
            path=dataset.root,
            fix="repair the files, or choose the layout with --layout",
            code="no_cases",
        )
    counted = [f"{note} ({count} cases)" for note, count in reader.notes.most_common(5)]
    return _summed_up(facts, reader, (*findings, *counted))


def propose_groups(cases: Sequence[Case]) -> tuple[str | None, str]:
    """A pattern under which several cases share a subject, and why; None if ids tell nothing."""
    for pattern, reason in _SUBJECTS:
        found = [re.search(pattern, case.id) for case in cases]
        if not found or any(match is None for match in found):
            continue
        sizes = Counter(match[1] for match in found if match is not None)
        shared = sum(size for size in sizes.values() if size > 1)
        if len(sizes) >= _FEWEST_SUBJECTS and shared >= len(cases) / 2:
            return pattern, f"{reason}: {len(cases)} cases of {len(sizes)} subjects"
    return None, ""


@dataclass(slots=True)
class _Reader:
    """Reads cases and collects what went wrong; `instances` says that labels number objects."""

    dataset: Dataset
    instances: bool
    damaged: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def look(self, case: Case) -> list[CaseFacts]:
        """Facts of a case; none where it cannot be read."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            try:
                found = [_read(case, self.dataset, self.instances)]
            except InputError as error:
                self.damaged[case.id] = error.cause
                found = []
        self.notes.update(
            str(one.message).rpartition(": ")[2]
            for one in caught
            if issubclass(one.category, DataWarning)
        )
        return found


def _are_ids(cases: Sequence[Case], dataset: Dataset) -> bool:
    """Whether label values of an only class are numbers of objects: every case has its own.

    A list of names in the data set says what its values are; one name from the user does not.
    """
    if set(dataset.labels) != {1} or dataset.layout not in _WITHOUT_NAMES:
        return False
    for case in cases[:_TRIALS]:
        try:
            _read(case, dataset, instances=False)
        except InputError as error:
            return error.code == "undeclared_labels" or "undeclared label values" in error.cause
    return False


def _read(case: Case, dataset: Dataset, instances: bool) -> CaseFacts:
    source = load(case.image[0])
    if case.label is None:
        raise InputError("has no label")
    if not instances:
        labels = read_labels(case.label, source, dict(dataset.labels))
    else:
        labels = read_labels(case.label, source, None, LabelOptions(instances=True))
        labels = (labels > 0).astype(np.uint8)
    return look_at(case.id, case.group, source, labels, dataset.labels)


def _summed_up(
    facts: Sequence[CaseFacts], reader: _Reader, findings: tuple[str, ...]
) -> Fingerprint:
    dataset = reader.dataset
    axis = Counter(one.slice_axis for one in facts).most_common(1)[0][0]
    slices = sum(one.slices for one in facts)
    is_picture = all(one.shape[0] == 1 for one in facts)
    spacing, shape = (
        tuple(Spread.of([getattr(one, name)[axis] for one in facts]) for axis in range(3))
        for name in ("spacing_mm", "shape")
    )
    return Fingerprint(
        layout=dataset.layout,
        modality=dataset.channels,
        dimensions=2 if is_picture else 3,
        cases={split: len(cases) for split, cases in dataset.cases.items()},
        subjects={split: len({c.group for c in cases}) for split, cases in dataset.cases.items()},
        looked_at=len(facts),
        is_colour=any(one.is_colour for one in facts),
        has_spacing=all(one.has_spacing for one in facts),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        shape=(shape[0], shape[1], shape[2]),
        slice_axis=axis,
        slices=slices,
        empty_slices=round(sum(one.empty_slices for one in facts) / slices, 4),
        intensity=_intensities(facts),
        classes=_classes(facts, dataset.labels),
        damaged=reader.damaged,
        findings=findings,
        instances=reader.instances,
    )


def _intensities(facts: Sequence[CaseFacts]) -> Intensities:
    inside, everywhere = (
        np.concatenate([getattr(one, name) for one in facts]) for name in ("inside", "everywhere")
    )
    return Intensities(
        _percentiles(inside if inside.size else everywhere),
        _percentiles(everywhere),
        Counter(one.dtype for one in facts).most_common(1)[0][0],
        Spread.of([one.range_used for one in facts]),
    )


def _percentiles(values: np.ndarray) -> tuple[float, float, float, float, float]:
    a, b, c, d, e = (round(float(v), 3) for v in np.percentile(values, [0.5, 5, 50, 95, 99.5]))
    return a, b, c, d, e


def _classes(facts: Sequence[CaseFacts], names: Mapping[int, str]) -> dict[int, ClassPrint]:
    total = sum(found.voxels for one in facts for found in one.classes.values())
    prints: dict[int, ClassPrint] = {}
    for value, name in names.items():
        found = [one.classes[value] for one in facts if value in one.classes]
        spread = {
            measure: Spread.of([getattr(one, measure) for one in found] or [0.0])
            for measure in ("objects", "objects_2d", "diameter_mm", "thickness_px", "fill")
        }
        voxels = sum(one.voxels for one in found) / max(total, 1)
        prints[value] = ClassPrint(name, len(found) / len(facts), round(voxels, 4), **spread)
    return prints
