"""Builds NIfTI files byte by byte, so that a test can damage exactly one thing."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.array([[0.8, 0, 0, -50], [0, 0.8, 0, -40], [0, 0, 3.0, 10], [0, 0, 0, 1.0]])
SHAPE = (16, 20, 24)  # k, j, i
VOXELS = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.int16)
HEADER_BYTES = 352
Make = Callable[[Path], Path]
NAN, INF = float("nan"), float("inf")


def fault(*names: str) -> pytest.MarkDecorator:
    """Put identifiers of the fault catalogue into the name of a test; it runs once for each."""
    return pytest.mark.parametrize((), [pytest.param(id=name) for name in names])


def header(version: int = 1, voxels: np.ndarray = VOXELS, order: str = "<") -> np.ndarray:
    """Header record of `voxels` on the base lattice: both forms, codes 1, millimetres."""
    kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    record = kind()
    record.set_data_shape(voxels.shape[::-1])
    record.set_data_dtype(voxels.dtype)
    record.set_sform(AFFINE, 1)
    record.set_qform(AFFINE, 1)
    record.set_xyzt_units("mm", "sec")
    fields = np.array(record.structarr, dtype=record.structarr.dtype.newbyteorder("<"))
    fields["magic"] = b"n+1" if version == 1 else b"n+2"
    fields["vox_offset"] = 352 if version == 1 else 544
    fields["scl_slope"], fields["scl_inter"] = 1, 0
    return fields.astype(fields.dtype.newbyteorder(order))


def content(
    voxels: np.ndarray = VOXELS, version: int = 1, order: str = "<", **fields: Any
) -> bytearray:
    """A whole file with header fields replaced; `dim_2` sets one entry of a vector field."""
    record = header(version, voxels, order)
    for name, value in fields.items():
        base, _, number = name.rpartition("_")
        if base in ("dim", "pixdim") and number.isdigit():
            record[base][int(number)] = value
        else:
            record[name] = value
    data = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()
    return bytearray(record.tobytes() + bytes(4) + data)


def write(path: Path, data: bytes) -> Path:
    """Write bytes, through gzip where the name says so."""
    path.write_bytes(gzip.compress(bytes(data), mtime=0) if path.suffix == ".gz" else bytes(data))
    return path


def plain(name: str = "case.nii", **fields: Any) -> Make:
    return lambda folder: write(folder / name, content(**fields))


def raw(name: str, data: Callable[[], bytes]) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data())
        return folder / name

    return make


def voxels(array: np.ndarray, name: str = "case.nii", **fields: Any) -> Make:
    return lambda folder: write(folder / name, content(array, **fields))


def packed() -> bytes:
    return gzip.compress(bytes(content()), mtime=0)


def changed(dtype: str, value: complex, count: int = 1) -> np.ndarray:
    array = VOXELS.astype(dtype)
    array.reshape(-1)[:count] = value
    return array


def sform(affine: np.ndarray) -> dict[str, np.ndarray]:
    return {f"srow_{axis}": affine[row] for row, axis in enumerate("xyz")}


def sform_with(entries: dict[tuple[int, int], float]) -> dict[str, np.ndarray]:
    affine = AFFINE.copy()
    for place, value in entries.items():
        affine[place] = value
    return sform(affine)


SHEARED = sform_with({(0, 2): 0.9})
NO_FORMS = {"sform_code": 0, "qform_code": 0}
