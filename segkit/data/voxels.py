"""Raw voxels to usable ones: colour and complex parts, scaling, NaN and overflow."""

import math
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Shaped

from segkit.data.options import ReadOptions
from segkit.errors import InputError

FLOAT32_MAX = float(np.finfo(np.float32).max)
EXACT_IN_FLOAT32 = 2**24
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def to_native(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Swap bytes in place where the file's order is not the machine's."""
    if array.dtype.isnative:
        return array
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))


def grey(
    array: Shaped[np.ndarray, "k j i colours"], options: ReadOptions, path: Path, notes: list[str]
) -> Shaped[np.ndarray, "k j i"]:
    """Luminance (ITU-R BT.601) of colour voxels, if the options allow it.

    Raises:
        InputError: The options do not say so.
    """
    if not options.luminance:
        raise InputError(
            f"has colour voxels ({array.shape[-1]} values each), expected one value",
            fix="say --luminance to read them as grey",
            path=path,
            option="--luminance",
        )
    notes.append("colour voxels read as luminance")
    out = np.empty(array.shape[:-1], dtype=array.dtype)
    for source, target in zip(array, out, strict=True):
        target[...] = np.rint(source[..., :3].astype(np.float32) @ LUMINANCE)
    return out


def real_part(
    array: Shaped[np.ndarray, "k j i"], options: ReadOptions, path: Path, notes: list[str]
) -> Shaped[np.ndarray, "k j i"]:
    """Chosen part of complex voxels; real ones pass.

    Raises:
        InputError: The voxels are complex and the options do not choose.
    """
    if array.dtype.kind != "c":
        return array
    if options.complex_part is None:
        raise InputError(
            "has complex voxels, expected real ones",
            fix="say --complex magnitude, phase or real",
            path=path,
            option="--complex",
        )
    notes.append(f"{options.complex_part} of complex voxels")
    if options.complex_part == "real":
        return np.ascontiguousarray(array.real)
    return np.abs(array) if options.complex_part == "magnitude" else np.angle(array)


def scaled(
    array: Shaped[np.ndarray, "k j i"], slope: float | None, inter: float, path: Path
) -> Shaped[np.ndarray, "k j i"]:
    """Voxels times `slope` plus `inter`: float32, or float64 where the stored type needs it.

    Raises:
        InputError: The result does not fit into float32.
    """
    if slope is None:
        return array
    size = np.abs(array) if array.dtype.kind == "c" else array
    # fmin and fmax pass over NaN
    ends = float(np.fmin.reduce(size, axis=None)), float(np.fmax.reduce(size, axis=None))
    largest = max(abs(end) for end in ends if math.isfinite(end)) if np.isfinite(ends).any() else 0
    if largest * abs(slope) + abs(inter) > FLOAT32_MAX:
        _refuse_overflow(largest * abs(slope) + abs(inter), path)
    # float32 if the product is as exact as the stored values
    out = array.astype(np.result_type(array.dtype, np.float32))
    out *= slope
    out += inter
    return out


def check_values(
    array: Shaped[np.ndarray, "k j i"], options: ReadOptions, path: Path, notes: list[str]
) -> Shaped[np.ndarray, "k j i"]:
    """Refuse or fill what is not finite; refuse what float32 cannot hold; note what it rounds.

    Works plane by plane, so that no copy of the volume is made.

    Raises:
        InputError: NaN or Inf without a fill value, only NaN, or an overflow.
    """
    if array.dtype.kind == "f":
        return _check_floats(array, options, path, notes)
    if array.dtype.itemsize >= 4 and array.dtype.kind in "iu":
        lost = sum(
            int(np.count_nonzero(plane.astype(np.float32).astype(np.float64) != plane))
            for plane in array
            if max(abs(int(plane.min())), abs(int(plane.max()))) > EXACT_IN_FLOAT32
        )
        if lost:
            notes.append(f"{lost:,} voxels of {array.dtype.name} are rounded in float32")
    return array


def _check_floats(
    array: Shaped[np.ndarray, "k j i"], options: ReadOptions, path: Path, notes: list[str]
) -> Shaped[np.ndarray, "k j i"]:
    bad, largest = 0, 0.0
    for plane in array:
        # min and max see NaN and Inf without a temporary array
        low, high = float(plane.min()), float(plane.max())
        if not np.isfinite([low, high]).all():
            is_bad = ~np.isfinite(plane)
            bad += int(is_bad.sum())
            if is_bad.all():
                continue
            low, high = float(plane[~is_bad].min()), float(plane[~is_bad].max())
        largest = max(largest, abs(low), abs(high))
    if bad == array.size:
        raise InputError("all voxels are NaN or Inf", fix="export the file again", path=path)
    if largest > FLOAT32_MAX:
        _refuse_overflow(largest, path)
    if not bad:
        return array
    if options.nan is None:
        raise InputError(
            f"{bad:,} of {array.size:,} voxels are NaN or Inf",
            fix="say --nan fill=V to replace them",
            path=path,
            option="--nan",
        )
    for plane in array:
        plane[~np.isfinite(plane)] = options.nan
    notes.append(f"{bad:,} NaN or Inf voxels replaced by {options.nan:g}")
    return array


def _refuse_overflow(largest: float, path: Path) -> NoReturn:
    raise InputError(
        f"a voxel value of {largest:.3g} overflows float32", fix="rescale the values", path=path
    )
