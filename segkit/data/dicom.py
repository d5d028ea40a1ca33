"""DICOM series as volumes: positions rule, nothing is stretched, stacked or guessed."""

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from segkit.data.dicom_file import is_dicom_file, looks_like_dicom
from segkit.data.dicom_frames import SEGMENTATION, Frame, is_image_class, read_frames
from segkit.data.dicom_lattice import Lattice, fit_lattice, geometry_of, place
from segkit.data.dicom_pixels import read_stack, stored_pixels
from segkit.data.dicom_scan import Scan, scan_folder, walk
from segkit.data.dicom_seg import read_seg
from segkit.data.dicom_series import check_directions, choose_series, choose_stack, with_spacing
from segkit.data.options import ReadOptions
from segkit.data.volume import Volume
from segkit.errors import DataWarning, InputError

_SNIFFED = 1000


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its content, or a folder holds such a file.

    Of a folder, the first 1,000 files are looked at.
    """
    path = Path(path)
    if path.is_dir():
        return any(is_dicom_file(file) for file in itertools.islice(walk(path), _SNIFFED))
    return is_dicom_file(path)


def read_series(path: str | Path, *, options: ReadOptions | None = None) -> Volume:
    """Read one series: a folder, its DICOMDIR, or a single (multi-frame) file.

    Slices are sorted by ImagePositionPatient along their normal, whatever their names or numbers;
    values are modality values (slope and intercept of each slice); the shear of a tilted gantry
    stays in the affine. A segmentation object gives a label map. `header` names the source file
    of each slice and holds no identifiers; whatever deserves attention is warned of once and kept
    in `notes`.

    Raises:
        InputError: The folder holds no slices, or not exactly one regular stack; the message names
            the option that makes it proceed, if there is one.
    """
    path, options = Path(path), options or ReadOptions()
    if path.name == "DICOMDIR" and path.is_file():
        path = path.parent
    if path.is_dir():
        scan = scan_folder(path, skip_unreadable=options.skip_unreadable)
        volume = _volume_of(path, scan, options)
    else:
        volume = _read_file(path, options)
    for note in volume.notes:
        warnings.warn(f"{path}: {note}", DataWarning, stacklevel=2)
    return volume


def _read_file(path: Path, options: ReadOptions) -> Volume:
    frames = read_frames(path)
    if frames and frames[0].sop_class == SEGMENTATION:
        return read_seg(path, segment=options.frame)
    if not frames or not is_image_class(frames[0].sop_class):
        raise InputError(
            "is a DICOM object without image slices",
            path=path,
            fix="give the folder or the file of an image series; contours (RTSTRUCT) are read "
            "beside their series, by segkit.data.dicom_rtstruct.read_rtstruct",
            code="no_slices",
        )
    placed = [frame for frame in frames if frame.position_mm and frame.orientation]
    if not placed:
        return _unplaced(frames, path, options)
    with path.open("rb") as file:
        _, has_preamble = looks_like_dicom(file.read(132))
    scan = Scan(placed, without_preamble=int(not has_preamble))
    return _volume_of(path, scan, options)


def _volume_of(folder: Path, scan: Scan, options: ReadOptions) -> Volume:
    if not scan.frames:
        raise InputError(
            f"holds no DICOM slice with a position ({scan.without_position} DICOM objects without "
            f"one, {len(scan.unreadable)} unreadable, {scan.others} other files)",
            path=folder,
            fix="give the folder of a CT, MR or PET series",
            code="no_slices",
        )
    frames = choose_series(scan.frames, folder, options.series)
    frames, declared = _with_declared_spacing(frames, folder, options)
    direction = check_directions(frames, folder)
    stack, copies = choose_stack(frames, folder, options.frame, stored_pixels)
    lattice, uneven = fit_lattice(stack, folder, fill_gap=options.fill_gap, regrid=options.regrid)
    pixels = read_stack(stack, folder, luminance=options.luminance, max_gb=options.max_gb)
    spacing = stack[0].spacing_mm
    assert spacing is not None
    array = place(pixels, lattice, spacing)
    notes = (
        _count(len(scan.frames) - len(frames), "slices of other series or orientations"),
        _count(
            len(frames) - len(stack) - copies, "images of other time points, echoes or the like"
        ),
        declared,
        direction,
        f"{copies} copies of slices (equal pixels) were dropped" if copies else "",
        uneven,
        *_file_notes(scan),
        _colour_note(stack[0]),
    )
    return Volume(
        array=array,
        geometry=geometry_of(array.shape, lattice.affine(spacing), folder),
        path=folder,
        header=_header(stack, lattice, scan),
        notes=tuple(note for note in notes if note),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what} were left out" if number else ""


def _file_notes(scan: Scan) -> tuple[str, str]:
    unreadable = _count(len(scan.unreadable), "unreadable files")
    if unreadable:
        unreadable += f", the first is {scan.unreadable[0].name!r}"
    bare = scan.without_preamble
    return unreadable, f"{bare} files lack the DICOM preamble" if bare else ""


def _colour_note(frame: Frame) -> str:
    is_grey = frame.encoding.photometric.startswith("MONOCHROME")
    return "" if is_grey else "colour pixels were turned grey"


def _with_declared_spacing(
    frames: list[Frame], folder: Path, options: ReadOptions
) -> tuple[list[Frame], str]:
    if frames[0].spacing_mm is not None:
        return frames, ""
    if options.spacing is None:
        raise InputError(
            "has no PixelSpacing, or one that no pixel can have",
            path=folder,
            fix="state the voxel size with --spacing x,y,z in mm (x between columns, y between "
            "rows; distances of slices come from their positions)",
            code="no_spacing",
            option="--spacing",
        )
    x, y, z = options.spacing
    frames = [replace(frame, thickness_mm=z) for frame in with_spacing(frames, (y, x))]
    return frames, f"pixel spacing {x:g} x {y:g} mm is declared by the user"


def _header(stack: list[Frame], lattice: Lattice, scan: Scan) -> dict[str, object]:
    """What a writer needs to point back at the source; no identifiers."""
    sources: list[tuple[str, int] | None] = [None] * lattice.count
    if lattice.slots is not None:
        for k, frame in zip(lattice.slots.tolist(), stack, strict=True):
            sources[k] = (frame.path, frame.index)
    return {
        "format": "dicom",
        "modality": stack[0].modality,
        "is_inverted": stack[0].encoding.photometric == "MONOCHROME1",
        "is_mosaic": stack[0].tile is not None,
        "sources": tuple(sources),
        "gap_slices": lattice.gap_slices,
        "ignored_objects": scan.without_position,
    }


def _unplaced(frames: list[Frame], path: Path, options: ReadOptions) -> Volume:
    """A single picture without a place in the patient, e.g. a radiograph."""
    if len(frames) > 1 or frames[0].index < 0:
        raise InputError(
            "holds several frames, but no position for each of them",
            path=path,
            fix="follow objects through it with marks on its frames (--point x,y@FRAME, "
            "VideoPredictor); or export it as enhanced multi-frame or as single slices",
            code="no_positions",
        )
    array = read_stack(frames, path, luminance=options.luminance, max_gb=options.max_gb)
    spacing = frames[0].spacing_mm or (1.0, 1.0)
    affine = np.diag([-spacing[1], -spacing[0], 1.0, 1.0])
    notes = ("unknown frame: no position in the patient; nothing can be stated in mm",)
    return Volume(
        array=array,
        geometry=geometry_of(array.shape, affine, path, is_known=False),
        path=path,
        header={
            "format": "dicom",
            "modality": frames[0].modality,
            "is_inverted": frames[0].encoding.photometric == "MONOCHROME1",
            "is_mosaic": False,
            "sources": ((frames[0].path, 0),),
            "gap_slices": (),
            "ignored_objects": 0,
        },
        notes=notes + ((_colour_note(frames[0]),) if _colour_note(frames[0]) else ()),
    )
