"""Choose the one stack of slices that is meant, out of everything a folder holds."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segkit.data.dicom_frames import Frame
from segkit.errors import InputError

SAME_DIRECTION = 1e-3
SAME_PLACE_MM = 1e-3
_EXACT, _TOLERATED = 2e-6, 1e-4
_LISTED = 12


def choose_series(frames: Sequence[Frame], folder: Path, wanted: str | None) -> list[Frame]:
    """Frames of one series and one orientation.

    `wanted` is a SeriesInstanceUID, with ":n" for the n-th orientation of that series.

    Raises:
        InputError: More than one series or orientation and no choice, an unknown choice, or two
            patients, frames of reference, sizes or pixel spacings within the chosen stack.
    """
    by_series: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        by_series[frame.series].append(frame)
    uid, _, part = (wanted or "").partition(":")
    if wanted is None and len(by_series) > 1:
        listing = [_describe(uid, group) for uid, group in by_series.items()]
        raise _choice_needed(folder, f"holds {len(by_series)} series", listing)
    if wanted is not None and uid not in by_series:
        listing = [_describe(uid, group) for uid, group in by_series.items()]
        raise _choice_needed(folder, f"holds no series {uid!r}", listing)
    chosen = by_series[uid] if wanted is not None else next(iter(by_series.values()))
    _refuse_mixture(chosen, folder)
    return _choose_orientation(chosen, folder, part)


def choose_stack(
    frames: Sequence[Frame],
    folder: Path,
    wanted: int | None,
    load: Callable[[Frame], np.ndarray],
) -> tuple[list[Frame], int]:
    """Frames sorted along their normal, one per position, and the number of copies dropped.

    Several frames per position are time points, echoes and the like (one is chosen by `wanted`,
    from 0), or copies; copies are told by their pixels, which `load` reads.

    Raises:
        InputError: Several stacks and no choice, or two different slices at one position.
    """
    places = _by_position(frames)
    copies = 0
    if max(map(len, places)) > 1 and not _uniform_and_different(places, load):
        before = len(frames)
        places = [_without_copies(place, load) for place in places]
        copies = before - sum(map(len, places))
    most = max(map(len, places))
    if most == 1:
        if wanted not in (None, 0):
            raise _frame_needed(folder, f"has one stack, no --frame {wanted}", 1)
        return [place[0] for place in places], copies
    stacks = _stacks(places, most)
    if stacks is None:
        raise InputError(
            f"holds {sum(len(place) > 1 for place in places)} positions with more than one slice "
            "whose pixels differ",
            path=folder,
            fix="remove the slices that do not belong to the series",
            code="duplicate_slices",
        )
    if wanted is None or not 0 <= wanted < most:
        cause = f"has {most} images at each position (time points, echoes or the like)"
        raise _frame_needed(folder, cause, most)
    return stacks[wanted], copies


def directions(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of increasing column, increasing row, and the normal of the slice."""
    assert frame.orientation is not None
    along_row, along_column = np.reshape(frame.orientation, (2, 3)).astype(np.float64)
    along_row = along_row / np.linalg.norm(along_row)
    along_column = along_column - along_row * (along_row @ along_column)
    along_column = along_column / np.linalg.norm(along_column)
    return along_row, along_column, np.cross(along_row, along_column)


def check_directions(frames: Sequence[Frame], folder: Path) -> str:
    """Note on directions that are not exactly unit and orthogonal; empty if they are.

    Raises:
        InputError: They are off by more than 1e-4.
    """
    values = np.array([frame.orientation for frame in frames]).reshape(-1, 2, 3)
    lengths = np.abs(np.linalg.norm(values, axis=2) - 1).max()
    off = max(float(lengths), float(np.abs((values[:, 0] * values[:, 1]).sum(axis=1)).max()))
    if off > _TOLERATED:
        raise InputError(
            f"ImageOrientationPatient is off unit length or a right angle by {off:.2g}, at most "
            f"{_TOLERATED:g} is allowed",
            path=folder,
            fix="export the series again",
            code="orientation",
        )
    return f"ImageOrientationPatient is off by {off:.1g}; corrected" if off > _EXACT else ""


def _choose_orientation(frames: list[Frame], folder: Path, part: str) -> list[Frame]:
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _same_direction(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    groups.sort(key=len, reverse=True)
    known = [str(n) for n in range(1, len(groups) + 1)]
    if part not in known and (part or len(groups) > 1):
        uid = frames[0].series
        listing = [_describe(f"{uid}:{n}", group) for n, group in enumerate(groups, start=1)]
        cause = f"mixes {len(groups)} orientations in one series (a localizer?)"
        raise _choice_needed(folder, cause, listing)
    chosen = groups[int(part) - 1] if part else groups[0]
    _refuse_sizes(chosen, folder)
    return chosen


def _same_direction(one: Frame, two: Frame) -> bool:
    assert one.orientation is not None
    assert two.orientation is not None
    return bool(np.abs(np.subtract(one.orientation, two.orientation)).max() <= SAME_DIRECTION)


def _refuse_mixture(frames: Sequence[Frame], folder: Path) -> None:
    """Patients are counted, never named."""
    if (patients := len({frame.patient for frame in frames})) > 1:
        raise InputError(
            f"holds {patients} different PatientIDs under one SeriesInstanceUID",
            path=folder,
            fix="separate the patients; such a folder is never read",
            code="two_patients",
        )
    if (references := len({frame.reference for frame in frames})) > 1:
        raise InputError(
            f"holds {references} frames of reference under one SeriesInstanceUID",
            path=folder,
            fix="their positions cannot be compared; separate the files",
            code="two_references",
        )


def _refuse_sizes(frames: Sequence[Frame], folder: Path) -> None:
    sizes = Counter((frame.encoding.rows, frame.encoding.columns) for frame in frames)
    if len(sizes) > 1:
        found = ", ".join(f"{n} of {h} x {w}" for (h, w), n in sizes.most_common(_LISTED))
        raise InputError(
            f"has slices of different sizes (Rows x Columns): {found}",
            path=folder,
            fix="separate the files",
            code="sizes",
        )
    spacings = [frame.spacing_mm or (0.0, 0.0) for frame in frames]
    if not np.allclose(spacings, spacings[0], rtol=1e-4, atol=0):
        found = ", ".join(f"{a:g} x {b:g} mm" for a, b in sorted(set(spacings))[:_LISTED])
        raise InputError(
            f"has slices of different PixelSpacing: {found}",
            path=folder,
            fix="separate the files",
            code="spacings",
        )


def _by_position(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames grouped by place, sorted along the normal."""
    _, _, normal = directions(frames[0])
    points = np.array([frame.position_mm for frame in frames])
    order = np.argsort(points @ normal, kind="stable")
    places: list[list[Frame]] = []
    last = None
    for index in order:
        if last is not None and np.abs(points[index] - last).max() <= SAME_PLACE_MM:
            places[-1].append(frames[index])
        else:
            places.append([frames[index]])
            last = points[index]
    for place in places:
        place.sort(key=lambda frame: (frame.number, frame.marks, frame.path))
    return places


def _uniform_and_different(
    places: Sequence[Sequence[Frame]], load: Callable[[Frame], np.ndarray]
) -> bool:
    """Whether each place holds equally many frames and those of the first place all differ."""
    if len(set(map(len, places))) > 1:
        return False
    return len(_without_copies(places[0], load)) == len(places[0])


def _without_copies(place: Sequence[Frame], load: Callable[[Frame], np.ndarray]) -> list[Frame]:
    if len(place) == 1:
        return list(place)
    kept: list[tuple[Frame, np.ndarray]] = []
    for frame in place:
        pixels = load(frame)
        if not any(np.array_equal(pixels, other) for _, other in kept):
            kept.append((frame, pixels))
    return [frame for frame, _ in kept]


def _stacks(places: Sequence[Sequence[Frame]], most: int) -> list[list[Frame]] | None:
    """Split frames into `most` stacks with one frame per position; None if that is ambiguous."""
    frames = [(p, frame) for p, place in enumerate(places) for frame in place]
    for column in range(len(frames[0][1].marks)):
        groups: dict[str, list[tuple[int, Frame]]] = defaultdict(list)
        for p, frame in frames:
            groups[frame.marks[column]].append((p, frame))
        full = all(
            len({p for p, _ in group}) == len(group) and len(group) * 2 >= len(places)
            for group in groups.values()
        )
        if len(groups) == most and full:
            return [[frame for _, frame in groups[key]] for key in sorted(groups, key=_natural)]
    if len(set(map(len, places))) == 1:
        return [[place[n] for place in places] for n in range(most)]
    return None


def _natural(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _describe(name: str, frames: Sequence[Frame]) -> str:
    sizes = Counter((frame.encoding.rows, frame.encoding.columns) for frame in frames)
    (rows, columns), _ = sizes.most_common(1)[0]
    return f"{name} ({frames[0].modality or '?'}, {len(frames)} slices of {rows} x {columns})"


def _choice_needed(folder: Path, cause: str, listing: Sequence[str]) -> InputError:
    shown = "; ".join(listing[:_LISTED])
    more = f"; and {len(listing) - _LISTED} more" if len(listing) > _LISTED else ""
    return InputError(
        f"{cause}: {shown}{more}",
        path=folder,
        fix="choose one with --series UID (as listed)",
        code="choose_series",
        option="--series",
    )


def _frame_needed(folder: Path, cause: str, count: int) -> InputError:
    return InputError(
        cause,
        path=folder,
        fix=f"choose one with --frame N, N from 0 to {count - 1}",
        code="choose_frame",
        option="--frame",
    )


def with_spacing(frames: Sequence[Frame], spacing_mm: tuple[float, float]) -> list[Frame]:
    """Frames with a declared (row, column) spacing."""
    return [replace(frame, spacing_mm=spacing_mm) for frame in frames]
