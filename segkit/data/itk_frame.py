"""What NRRD and MetaImage have in common: text headers, detached data files, frames in LPS."""

import math
import re
from pathlib import Path, PureWindowsPath

import numpy as np
from jaxtyping import Float

from segkit.data.options import ReadOptions
from segkit.errors import InputError
from segkit.geometry import MAX_MM, MIN_MM, Geometry, affine_fault

MAX_HEADER = 2**20  # bytes searched for the end of a text header
EXPORT = "export the file again"


def data_file(header: Path, entry: str) -> Path:
    """File that holds the voxels of a detached header.

    Raises:
        InputError: The entry leaves the header's folder, or names several files.
    """
    windows = PureWindowsPath(entry)  # splits at both kinds of slashes
    if windows.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise InputError(
            f"names the data file {entry!r}, which lies outside its folder",
            fix="put both files into one folder and name the data file without a path",
            path=header,
            code="path_outside_folder",
        )
    if entry.split()[0].upper() == "LIST" or re.search(r"%\d*d", entry):
        raise InputError(
            f"spreads its voxels over several files ({entry!r})",
            fix="save it as one file",
            path=header,
        )
    return header.parent / entry


def numbers(text: str, count: int | None, name: str, path: Path) -> list[float]:
    """The blank-separated numbers of a header entry; `count` of them unless None.

    Raises:
        InputError: They are not numbers, or not `count`.
    """
    try:
        values = [float(part) for part in text.split()]
    except ValueError as error:
        raise InputError(f"{name} is {text!r}, expected numbers", fix=EXPORT, path=path) from error
    if count is not None and len(values) != count:
        raise InputError(f"{name} is {text!r}, expected {count} numbers", fix=EXPORT, path=path)
    return values


def whole_numbers(text: str, count: int | None, name: str, path: Path) -> list[int]:
    """As `numbers`, each an integer >= 1."""
    values = numbers(text, count, name, path)
    if not all(value >= 1 and value == int(value) for value in values if math.isfinite(value)) or (
        not all(map(math.isfinite, values))
    ):
        raise InputError(f"{name} is {text!r}, all must be >= 1", fix=EXPORT, path=path)
    return [int(value) for value in values]


def framed(
    shape: tuple[int, int, int],
    affine: Float[np.ndarray, "4 4"],
    options: ReadOptions,
    path: Path,
) -> Geometry:
    """Lattice of a file that states its frame; `affine` leads to RAS mm.

    Raises:
        InputError: The affine is unusable, or `options` give another voxel size.
    """
    if (fault := affine_fault(affine)) is not None:
        raise InputError(f"its frame {fault}", fix=EXPORT, path=path)
    geometry = Geometry(shape, affine)
    found = geometry.spacing_mm[::-1]
    if options.spacing is not None and not np.allclose(options.spacing, found, rtol=1e-3):
        raise InputError(
            f"its frame says voxels of {found} mm, --spacing says {options.spacing}",
            fix="drop --spacing; it is for files without a frame",
            path=path,
        )
    return geometry


def unframed(
    shape: tuple[int, int, int],
    spacing: tuple[float, ...] | None,
    options: ReadOptions,
    path: Path,
    notes: list[str],
) -> Geometry:
    """Lattice of a file without a frame; `spacing` is (x, y, z) in mm where it states one.

    Raises:
        InputError: The voxel size is unknown and not given.
    """
    if options.spacing is not None:
        notes.append(f"no frame in the file; voxel size {options.spacing} mm as asked")
        return Geometry.from_spacing(shape, options.spacing[::-1])
    if spacing is None or not all(MIN_MM < step < MAX_MM for step in spacing):
        raise InputError(
            "no frame, and no voxel size" + (f" but {spacing}" if spacing else ""),
            fix="give the voxel size with --spacing x,y,z in mm",
            path=path,
            option="--spacing",
        )
    notes.append("unknown frame: nothing can be stated in mm")
    x, y, z = (*spacing, 1.0)[:3]
    return Geometry.from_spacing(shape, (z, y, x), is_known=False)
