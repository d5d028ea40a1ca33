"""Label maps as NIfTI with the frame fields of the image they belong to."""

import gzip
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Shaped

from segkit.data.label_table import caret_table
from segkit.data.nifti_frame import UNITS, NiftiFrame
from segkit.data.nifti_header import LAYOUTS
from segkit.data.volume import Volume

CODES = {"uint8": 2, "uint16": 512, "uint32": 768, "uint64": 1280}
EXTENSION_CODE = 0  # as TotalSegmentator; nibabel cannot show the registered code 30 (Caret)
LABEL_INTENT = 1002
MILLIMETRE = 2
SCANNER = 1
MAX_SIZE_1 = 32767  # voxels along an axis that NIfTI-1 can count


def write_nifti(
    file: BinaryIO,
    mask: Shaped[np.ndarray, "k j i"],
    like: Volume,
    labels: Mapping[int, str],
    *,
    is_packed: bool,
) -> None:
    """Write `mask`, of an unsigned type, on the grid of `like`.

    Of a NIfTI source both forms, their codes, units and version are repeated as stored; free text
    and extensions are not.
    """
    frame = _frame(like)
    version = 2 if frame.version == 2 or max(mask.shape) > MAX_SIZE_1 else 1
    extension = _extension(labels)
    head = _header(mask, frame, version, len(extension), has_labels=bool(labels)) + extension
    if not is_packed:
        _write(file, head, mask)
        return
    # neither name nor time go into the gzip header, so equal masks give equal bytes
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed:
        _write(packed, head, mask)


def _write(file: BinaryIO | gzip.GzipFile, head: bytes, mask: Shaped[np.ndarray, "k j i"]) -> None:
    file.write(head)
    little = mask.dtype.newbyteorder("<")
    for plane in mask:
        file.write(plane.astype(little).tobytes())


def _header(
    mask: Shaped[np.ndarray, "k j i"],
    frame: NiftiFrame,
    version: int,
    extension_bytes: int,
    *,
    has_labels: bool,
) -> bytes:
    """Fixed part and extension flag; fields not set here are zero."""
    length = 348 if version == 1 else 540
    fields = np.zeros((), LAYOUTS[length].newbyteorder("<"))
    fields["sizeof_hdr"] = length
    fields["magic"] = b"n+1" if version == 1 else b"n+2"
    if version == 2:
        fields["eol_check"] = (13, 10, 26, 10)
    else:
        fields["regular"] = b"r"
    fields["dim"] = [3, *mask.shape[::-1], 1, 1, 1, 1]
    fields["datatype"], fields["bitpix"] = CODES[mask.dtype.name], 8 * mask.dtype.itemsize
    fields["pixdim"] = [*frame.pixdim, 1, 1, 1, 1]
    fields["vox_offset"] = length + 4 + extension_bytes
    fields["scl_slope"] = 1
    fields["xyzt_units"] = frame.units
    fields["intent_code"] = LABEL_INTENT if has_labels else 0
    fields["sform_code"], fields["qform_code"] = frame.sform_code, frame.qform_code
    for row, axis in enumerate("xyz"):
        fields[f"srow_{axis}"] = frame.sform[row]
        fields[f"qoffset_{axis}"] = frame.qoffset[row]
    for number, part in enumerate("bcd"):
        fields[f"quatern_{part}"] = frame.quatern[number]
    return fields.tobytes() + bytes([1 if extension_bytes else 0, 0, 0, 0])


def _extension(labels: Mapping[int, str]) -> bytes:
    if not labels:
        return b""
    content = caret_table(labels)
    size = -(-(len(content) + 8) // 16) * 16
    head = size.to_bytes(4, "little") + EXTENSION_CODE.to_bytes(4, "little")
    return head + content.ljust(size - 8, b"\0")


def _frame(like: Volume) -> NiftiFrame:
    """Frame fields of the source if they still describe its lattice, else new ones in mm."""
    frame, report = like.header.get("nifti"), like.header.get("frame")
    if isinstance(frame, NiftiFrame) and isinstance(report, Mapping):
        form = report["form"]
        if form is None and not like.geometry.is_known:
            return frame
        if form in ("sform", "qform"):
            stored = frame.matrix(form)
            stored[:3] *= UNITS.get(frame.units & 7, ("", 1.0))[1]
            if np.allclose(stored, like.geometry.affine, rtol=1e-6, atol=1e-9):
                return _repaired(frame)
    return _new_frame(like)


def _repaired(frame: NiftiFrame) -> NiftiFrame:
    """The frame without what its reader had to ignore."""
    steps = np.linalg.norm(frame.sform[:, :3], axis=0)
    pixdim = frame.pixdim
    if not frame.has_pixdim:
        pixdim = (1.0, float(steps[0]), float(steps[1]), float(steps[2]))
    has_qform = bool(np.isfinite([*frame.quatern, *frame.qoffset]).all())
    return NiftiFrame(
        frame.version,
        np.nan_to_num(frame.sform, posinf=0, neginf=0),
        frame.sform_code if frame.fault("sform") is None else 0,
        frame.quatern if has_qform else (0.0, 0.0, 0.0),
        frame.qoffset if has_qform else (0.0, 0.0, 0.0),
        pixdim,
        frame.qform_code if frame.fault("qform") is None else 0,
        frame.units,
    )


def _new_frame(like: Volume) -> NiftiFrame:
    affine, steps = like.geometry.affine, like.geometry.spacing_mm[::-1]
    rotation = affine[:3, :3] / steps
    flip = -1.0 if np.linalg.det(rotation) < 0 else 1.0
    is_rigid = np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-5)
    code = SCANNER if like.geometry.is_known else 0
    x, y, z = affine[:3, 3]
    return NiftiFrame(
        1,
        affine[:3],
        code,
        _quaternion(rotation * [1.0, 1.0, flip]) if is_rigid else (0.0, 0.0, 0.0),
        (float(x), float(y), float(z)),
        (flip, *steps),
        code if is_rigid else 0,
        MILLIMETRE,
    )


def _quaternion(rotation: Float[np.ndarray, "3 3"]) -> tuple[float, float, float]:
    """(b, c, d) of the unit quaternion (a, b, c, d) with a >= 0 of a proper rotation.

    The quaternion is the eigenvector with the largest eigenvalue of a symmetric matrix, which is
    stable for all angles (source: Bar-Itzhack, "New method for extracting the quaternion from a
    rotation matrix", 2000).
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    a, b, c, d = np.linalg.eigh(matrix)[1][:, -1]
    sign = -1.0 if a < 0 else 1.0
    return (float(sign * b), float(sign * c), float(sign * d))
