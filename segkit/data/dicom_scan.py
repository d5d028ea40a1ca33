"""Find the DICOM files of a folder and describe their frames, by header only.

One file is open at a time; per frame a small record is kept. Links are followed, but no folder is
entered twice.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from segkit.data.dicom_file import is_dicom_file, looks_like_dicom, read_dataset, refuse_damage
from segkit.data.dicom_frames import Frame, is_image_class, read_frames
from segkit.errors import InputError

_LOG = logging.getLogger(__name__)
_SUFFIXES = (".dcm", ".dicom", ".ima")
_REPORT_EVERY = 5000


@dataclass(slots=True)
class Scan:
    """Frames of a folder, and how many files were left out for which reason."""

    frames: list[Frame] = field(default_factory=list)
    others: int = 0  # not DICOM
    without_position: int = 0  # DICOM, but no slice: reports, dose, scouts, screens
    without_preamble: int = 0
    unreadable: list[Path] = field(default_factory=list)


def scan_folder(
    folder: Path,
    *,
    skip_unreadable: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Scan:
    """Describe every image frame below `folder`; `progress` hears the number of files seen.

    A consistent DICOMDIR serves as the list of files.

    Raises:
        InputError: A file is damaged and `skip_unreadable` is off, or DICOMDIR leaves the folder.
    """
    scan = Scan()
    for count, path in enumerate(_candidates(folder), start=1):
        try:
            _add(scan, path)
        except InputError as error:
            if not skip_unreadable:
                raise
            _LOG.info("left out a file that cannot be read (%s)", error.code)
            scan.unreadable.append(path)
        if count % _REPORT_EVERY == 0:
            _LOG.info("%d files seen, %d slices found", count, len(scan.frames))
            if progress is not None:
                progress(count)
    return scan


def walk(folder: Path) -> Iterator[Path]:
    """Regular files and dangling links below `folder`, sorted within each folder."""
    seen: set[tuple[int, int]] = set()
    stack = [folder]
    while stack:
        here = stack.pop()
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(here) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            path = here / name
            try:
                mode = os.stat(path).st_mode
            except OSError:
                mode = stat.S_IFREG
            if stat.S_ISDIR(mode):
                stack.append(path)
            elif stat.S_ISREG(mode):
                yield path


def _add(scan: Scan, path: Path) -> None:
    with refuse_damage(path), open(path, "rb") as file:
        head = file.read(132)
    known, has_preamble = looks_like_dicom(head)
    if not known and path.suffix.lower() not in _SUFFIXES:
        scan.others += 1
        return
    frames = read_frames(path)
    if not frames or not is_image_class(frames[0].sop_class):
        scan.without_position += 1
        return
    placed = [frame for frame in frames if frame.position_mm and frame.orientation]
    scan.without_position += not placed
    scan.without_preamble += bool(placed) and not has_preamble
    scan.frames += placed


def _candidates(folder: Path) -> Iterator[Path]:
    directory = folder / "DICOMDIR"
    if directory.is_file() and (listed := _listed_files(directory)) is not None:
        return iter(listed)
    return (path for path in walk(folder) if path.name != "DICOMDIR")


def _listed_files(directory: Path) -> list[Path] | None:
    """Files that a DICOMDIR lists; None unless they are exactly the DICOM files of the folder."""
    try:
        names = _referenced_names(directory)
    except InputError:
        _LOG.info("DICOMDIR is damaged; the folder is scanned instead")
        return None
    folder = directory.parent.resolve()
    listed = [_inside(folder, directory, name) for name in names]
    known = set(listed)
    if not all(is_dicom_file(path) for path in known):
        _LOG.info("DICOMDIR lists files that are absent; the folder is scanned instead")
        return None
    others = (path.resolve() for path in walk(folder) if path.name != "DICOMDIR")
    if any(path not in known and is_dicom_file(path) for path in others):
        _LOG.info("DICOMDIR lists only a part of the files; the folder is scanned instead")
        return None
    return sorted(known)


def _referenced_names(directory: Path) -> list[object]:
    dataset, _ = read_dataset(directory)
    with refuse_damage(directory):
        records = dataset.get("DirectoryRecordSequence") or []
        return [record.ReferencedFileID for record in records if record.get("ReferencedFileID")]


def _inside(folder: Path, directory: Path, name: object) -> Path:
    """Path of a referenced file; refuses whatever leads out of the folder."""
    parts = [name] if isinstance(name, str) else [str(part) for part in list(name)]  # type: ignore[call-overload]
    relative = PurePosixPath("/".join(parts).replace("\\", "/"))
    path = folder / relative
    if relative.is_absolute() or ".." in relative.parts or not _is_below(path, folder):
        raise InputError(
            "lists a file outside its own folder",
            path=directory,
            fix="remove DICOMDIR to have the folder itself scanned, if you trust it",
            code="outside_folder",
        )
    return path.resolve()


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)
