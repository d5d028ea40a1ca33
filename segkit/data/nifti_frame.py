"""Which of a NIfTI file's two frames holds, checked against each other and against `pixdim`.

Source of the formulas: NIfTI-1 header, "method 2" (quaternion) and "method 3" (sform).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from segkit.data.options import Form, ReadOptions
from segkit.errors import InputError
from segkit.geometry import MAX_MM, MIN_MM, Geometry, affine_fault

UNITS = {0: ("mm (not stated)", 1.0), 1: ("m", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}
SAME_VOXELS, NEAR_VOXELS = 1e-3, 0.5  # corner distances: equal, and still usable
SAME_SIZE, NEAR_SIZE = 1e-3, 0.1  # relative differences of voxel sizes: equal, and still usable
USUAL_MM = (0.05, 20.0)
EXPORT = "export the file again"


@dataclass(frozen=True, slots=True, eq=False)
class NiftiFrame:
    """The frame fields of a header, as stored; a mask written for the file repeats them.

    `quatern` is (b, c, d), `qoffset` (x, y, z), `pixdim` its first four entries, `units` the whole
    code of space and time.
    """

    version: int
    sform: Float[np.ndarray, "3 4"]
    sform_code: int
    quatern: tuple[float, float, float]
    qoffset: tuple[float, float, float]
    pixdim: tuple[float, float, float, float]
    qform_code: int
    units: int

    @classmethod
    def from_fields(cls, fields: np.void, version: int) -> "NiftiFrame":
        """Take the frame out of a header record."""
        rows = [np.asarray(fields[f"srow_{axis}"], dtype=np.float64) for axis in "xyz"]
        b, c, d = (float(fields[f"quatern_{axis}"]) for axis in "bcd")
        x, y, z = (float(fields[f"qoffset_{axis}"]) for axis in "xyz")
        flip, di, dj, dk = (float(step) for step in fields["pixdim"][:4])
        return cls(
            version,
            np.stack(rows),
            int(fields["sform_code"]),
            (b, c, d),
            (x, y, z),
            (flip, di, dj, dk),
            int(fields["qform_code"]),
            int(fields["xyzt_units"]),
        )

    @property
    def has_pixdim(self) -> bool:
        """Whether the voxel size in `pixdim` is usable."""
        return all(MIN_MM < step < MAX_MM for step in self.pixdim[1:])

    def matrix(self, form: Form) -> Float[np.ndarray, "4 4"]:
        """Affine of one form in the file's unit; meaningless values where `fault` is not None."""
        affine = np.eye(4)
        if form == "sform":
            affine[:3] = self.sform
            return affine
        affine[:3, :3] = _rotation(self.quatern)
        affine[:3, :3] *= self.pixdim[1:]
        affine[:3, 2] *= -1.0 if self.pixdim[0] < 0 else 1.0
        affine[:3, 3] = self.qoffset
        return affine

    def fault(self, form: Form) -> str | None:
        """Why a form cannot be used, in words; None if it can."""
        if (self.sform_code if form == "sform" else self.qform_code) <= 0:
            return "is not set (code 0)"
        if form == "qform":
            square = sum(part * part for part in self.quatern)
            if not square <= 1 + 1e-6:  # also where it is NaN
                return f"has the quaternion {self.quatern}, which is no rotation"
            if not self.has_pixdim:
                return f"needs pixdim, which is {self.pixdim[1:]}"
        return affine_fault(self.matrix(form))


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """The lattice of a file and how it was found, for the run report."""

    geometry: Geometry
    report: Mapping[str, object]


def choose_frame(
    frame: NiftiFrame,
    shape: tuple[int, int, int],
    options: ReadOptions,
    path: Path,
    notes: list[str],
) -> FrameChoice:
    """Apply the geometry rule; `shape` is (k, j, i). Remarkable facts are added to `notes`.

    Raises:
        InputError: No frame is usable, or two contradict each other and no option decides.
    """
    unit, factor = UNITS.get(frame.units & 7, ("mm", 1.0))
    if frame.units & 7 not in UNITS:
        notes.append(f"unknown unit of length {frame.units & 7}; taken as mm")
    form = _choose_form(frame, options.geometry, path, notes)
    report = {
        "form": form,
        "sform_code": frame.sform_code,
        "qform_code": frame.qform_code,
        "unit": unit,
    }
    if form is None:
        geometry = _without_frame(frame, shape, factor, options, path, notes)
    else:
        _compare_forms(frame, form, shape, options.geometry is not None, path, notes)
        if form == "sform":
            _compare_sizes(frame, options.geometry is not None, path, notes)
        affine = frame.matrix(form)
        affine[:3] *= factor
        geometry = Geometry(shape, affine)
        _refuse_spacing(geometry, options, path)
    if not all(USUAL_MM[0] <= step <= USUAL_MM[1] for step in geometry.spacing_mm):
        notes.append(f"unusual voxel size {_sizes_text(geometry.spacing_mm[::-1])} mm (x, y, z)")
    return FrameChoice(geometry, report)


def _choose_form(
    frame: NiftiFrame, forced: Form | None, path: Path, notes: list[str]
) -> Form | None:
    if forced is not None:
        if (fault := frame.fault(forced)) is not None:
            raise InputError(f"{forced} {fault}", fix="drop --geometry", path=path)
        return forced
    if frame.sform_code > 0:
        if (fault := frame.fault("sform")) is None:
            return "sform"
        if frame.fault("qform") is not None:
            raise InputError(f"sform {fault}, and there is no usable qform", fix=EXPORT, path=path)
        notes.append(f"sform {fault}; qform used")
        return "qform"
    if frame.qform_code > 0:
        if (fault := frame.fault("qform")) is not None:
            raise InputError(f"qform {fault}, and there is no sform", fix=EXPORT, path=path)
        return "qform"
    return None


def _compare_forms(
    frame: NiftiFrame,
    form: Form,
    shape: tuple[int, int, int],
    is_forced: bool,
    path: Path,
    notes: list[str],
) -> None:
    """Geometry rule 2: the corners of the volume under both forms."""
    if min(frame.sform_code, frame.qform_code) <= 0 or frame.fault("sform") is not None:
        return
    if (fault := frame.fault("qform")) is not None:
        if frame.has_pixdim:  # else `_compare_sizes` tells
            notes.append(f"qform {fault}; sform used")
        return
    first, second = (Geometry(shape, frame.matrix(one)) for one in ("sform", "qform"))
    shift = first.corner_shift(second)
    if shift <= SAME_VOXELS:
        return
    fact = (
        "sform and qform differ in handedness (left and right are swapped)"
        if math.isinf(shift)
        else f"sform and qform lie {shift:.3g} voxels apart"
    )
    if shift > NEAR_VOXELS and not is_forced:
        raise InputError(
            fact,
            fix="find out which is right and say --geometry sform or --geometry qform",
            path=path,
            option="--geometry",
        )
    notes.append(f"{fact}; {form} used")


def _compare_sizes(frame: NiftiFrame, is_forced: bool, path: Path, notes: list[str]) -> None:
    """Geometry rule 3: column norms of the sform against `pixdim`."""
    if not frame.has_pixdim:
        notes.append(f"pixdim is {_sizes_text(frame.pixdim[1:])}; sform used")
        return
    steps = np.linalg.norm(frame.sform[:, :3], axis=0)
    difference = float(np.abs(np.array(frame.pixdim[1:]) / steps - 1).max())
    if difference <= SAME_SIZE:
        return
    fact = (
        f"voxel size is {_sizes_text(steps)} by the sform, {_sizes_text(frame.pixdim[1:])} by "
        f"pixdim ({difference:.2g} relative)"
    )
    if difference > NEAR_SIZE and not is_forced:
        raise InputError(
            fact,
            fix="if the sform is right say --geometry sform",
            path=path,
            option="--geometry",
        )
    notes.append(f"{fact}; sform used")


def _without_frame(
    frame: NiftiFrame,
    shape: tuple[int, int, int],
    factor: float,
    options: ReadOptions,
    path: Path,
    notes: list[str],
) -> Geometry:
    if options.spacing is not None:
        notes.append(f"no frame in the file; voxel size {_sizes_text(options.spacing)} mm as asked")
        x, y, z = options.spacing
        return Geometry.from_spacing(shape, (z, y, x))
    if not frame.has_pixdim:
        raise InputError(
            f"no frame, and the voxel size is {_sizes_text(frame.pixdim[1:])}",
            fix="give the voxel size with --spacing x,y,z in mm",
            path=path,
            option="--spacing",
        )
    notes.append("unknown frame (no sform, no qform): nothing can be stated in mm")
    x, y, z = (step * factor for step in frame.pixdim[1:])
    return Geometry.from_spacing(shape, (z, y, x), is_known=False)


def _refuse_spacing(geometry: Geometry, options: ReadOptions, path: Path) -> None:
    found = geometry.spacing_mm[::-1]
    if options.spacing is not None and not np.allclose(options.spacing, found, rtol=SAME_SIZE):
        raise InputError(
            f"its frame says voxels of {_sizes_text(found)} mm, --spacing says "
            f"{_sizes_text(options.spacing)}",
            fix="drop --spacing; it is for files without a frame",
            path=path,
        )


def _rotation(quatern: tuple[float, float, float]) -> Float[np.ndarray, "3 3"]:
    """Rotation of the unit quaternion (a, b, c, d); `a` follows from the others."""
    b, c, d = np.array(quatern) / max(1.0, math.hypot(*quatern))
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    cross = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
    return np.eye(3) + 2 * a * cross + 2 * cross @ cross


def _sizes_text(sizes: tuple[float, ...] | np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
