"""One function for everything segkit reads; the content decides, not the name."""

import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit.data.dicom import is_dicom, read_series
from segkit.data.files import GZIP_MAGIC, RegularFile
from segkit.data.metaimage import is_metaimage, metaimage_frames, read_metaimage
from segkit.data.nifti import nifti_frames, read_nifti
from segkit.data.nifti_header import is_nifti
from segkit.data.nrrd import parse_axes, read_header, read_nrrd
from segkit.data.options import ReadOptions
from segkit.data.pictures import is_picture, picture_frames, read_picture
from segkit.data.volume import Picture, Volume
from segkit.errors import DataWarning, InputError

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
READABLE = "NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG or TIFF"
PEEK = 544


def load(path: str | Path, options: ReadOptions | None = None, **changes: Any) -> Volume | Picture:
    """Read a volume (NIfTI, NRRD, MetaImage, DICOM file or folder) or a picture.

    Keyword arguments are fields of `ReadOptions`, e.g. `load(path, frame=0)`. Nothing is repaired
    silently: each remarkable fact is a `DataWarning` and an entry of `notes`.

    Example:
        >>> volume = load("ct.nii.gz")  # doctest: +SKIP
        >>> volume.array.shape, volume.geometry.spacing_mm  # doctest: +SKIP
        ((120, 512, 512), (2.5, 0.8, 0.8))

    Raises:
        InputError: The file is damaged, not supported or ambiguous; its `option` names what makes
            an ambiguous one proceed.
        TypeError: A keyword is no field of `ReadOptions`.
    """
    path = Path(path)
    notes: list[str] = []
    found = load_quietly(path, replace(options or ReadOptions(), **changes), notes)
    for note in notes:
        warnings.warn(f"{path}: {note}", DataWarning, stacklevel=2)
    return replace(found, notes=(*found.notes, *notes))


def load_quietly(path: Path, options: ReadOptions, notes: list[str]) -> Volume | Picture:
    """`load` for readers that warn themselves: what there is to warn of is added to `notes`.

    DICOM warns by itself and brings its own notes.
    """
    if path.is_dir():
        return _load_folder(path, options)
    with RegularFile(path) as source:
        data = source.peek(PEEK)
    if holds_dicom(path, data):
        return read_series(path, options=options)
    return _read(path, data, options, notes)


def count_frames(path: str | Path) -> int:
    """Volumes of a time series or one-hot stack, layers of a segmentation, pages of a picture.

    1 for DICOM, whose reader decides by itself.
    """
    path = Path(path)
    with RegularFile(path) as source:
        data = source.peek(PEEK)
    if is_picture(data):
        return picture_frames(path)
    if data.startswith(b"NRRD"):
        return parse_axes(read_header(path)).count
    if is_metaimage(data):
        return metaimage_frames(path)
    return 1 if holds_dicom(path, data) else nifti_frames(path)


def _load_folder(path: Path, options: ReadOptions) -> Volume:
    if path.name.lower().endswith((*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES)):
        raise InputError(
            "is a folder, its name is that of a file", fix="name the file inside it", path=path
        )
    return read_series(path, options=options)


def _read(path: Path, data: bytes, options: ReadOptions, notes: list[str]) -> Volume | Picture:
    name = path.name.lower()
    if is_picture(data):
        return read_picture(path, options, notes)
    if data.startswith(b"NRRD"):
        return read_nrrd(path, options, notes)
    if is_nifti(data) or is_nifti(_inflated(data)) or name.endswith(NIFTI_SUFFIXES):
        return read_nifti(path, options, notes)
    if is_metaimage(data) or name.endswith(META_SUFFIXES):
        return read_metaimage(path, options, notes)
    raise InputError(_foreign(data, name), fix=f"convert it to {READABLE}", path=path)


def holds_dicom(path: Path, data: bytes) -> bool:
    """Whether a file that starts with `data` is DICOM and belongs to no other reader."""
    named = path.name.lower().endswith((*NIFTI_SUFFIXES, *META_SUFFIXES))
    known = named or is_picture(data) or data.startswith(b"NRRD") or is_nifti(data)
    return not known and is_dicom(path)


def _inflated(data: bytes) -> bytes:
    """What the first bytes of a gzip file inflate to; nothing if they are no gzip stream."""
    if not data.startswith(GZIP_MAGIC):
        return b""
    try:
        return zlib.decompressobj(31).decompress(data, PEEK)
    except zlib.error:
        return b""


def _foreign(data: bytes, name: str) -> str:
    if data.startswith((b"\x93NUMPY", b"PK\x03\x04")) and name.endswith((".npy", ".npz")):
        return "NumPy files are not read: they may hold objects and carry no frame"
    for suffixes, kind in ((NRRD_SUFFIXES, "NRRD"), (PICTURE_SUFFIXES, "PNG, JPEG or TIFF")):
        if name.endswith(suffixes):
            return f"not a {kind} file: starts with {data[:8]!r}"
    return f"unknown kind of file: starts with {data[:8]!r}"
