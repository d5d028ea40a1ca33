"""Masks written onto the grid of the image they belong to, complete or not at all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from segkit.data.atomic import atomic_file
from segkit.data.dicom_rtstruct import encode_rtstruct
from segkit.data.dicom_seg import encode_seg
from segkit.data.itk_writer import write_metaimage, write_nrrd
from segkit.data.nifti_writer import write_nifti
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".seg.nrrd", ".nrrd", ".mha", ".dcm", ".rtstruct.dcm")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff")
UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)


def save(
    path: str | Path,
    mask: Shaped[np.ndarray, "..."],
    like: Volume | Picture,
    *,
    labels: Mapping[int, str] | None = None,
) -> None:
    """Write a mask or label map on the grid of `like`; the suffix chooses the format.

    Volumes: .nii .nii.gz .nrrd .seg.nrrd .mha, and where the source is a DICOM series .dcm (a
    segmentation object, needs the extra [dicom]) and .rtstruct.dcm (an RT structure set).
    Pictures, and volumes of one slice: .png .tif, with label values as grey values. The smallest
    unsigned type is used. Frame, units and form codes of a NIfTI source are kept; nothing else of
    the source goes into the output.
    `labels` (names by value) are stored where the format can: NIfTI, .seg.nrrd and DICOM.

    Example:
        >>> volume = load("ct.nii.gz")  # doctest: +SKIP
        >>> save("mask.nii.gz", volume.array > 200, volume, labels={1: "bone"})  # doctest: +SKIP

    Raises:
        InputError: The suffix is unknown, the mask does not have the shape of `like`, it holds
            other values than whole numbers >= 0, or the file cannot be written.
        MissingExtraError: .dcm without the package it needs.
    """
    path = Path(path)
    write = _writer(path, like, dict(labels or {}))
    values = _values(mask, like, path)
    try:
        with atomic_file(path) as file:
            write(file, values)
    except InputError as error:
        if error.path is not None:
            raise
        raise InputError(
            error.cause, fix=error.fix, path=path, code=error.code, option=error.option
        ) from error


def _writer(
    path: Path, like: Volume | Picture, labels: dict[int, str]
) -> Callable[[BinaryIO, Shaped[np.ndarray, "..."]], None]:
    name = path.name.lower()
    is_flat = isinstance(like, Picture) or like.geometry.shape[0] == 1
    if is_flat and name.endswith(".png"):
        return _write_png
    if is_flat and name.endswith((".tif", ".tiff")):
        return _write_tiff
    if isinstance(like, Volume):
        if name.endswith((".nii", ".nii.gz")):
            is_packed = name.endswith(".gz")
            return lambda file, mask: write_nifti(file, mask, like, labels, is_packed=is_packed)
        if name.endswith(".nrrd"):
            is_seg = name.endswith(".seg.nrrd")
            return lambda file, mask: write_nrrd(file, mask, like, labels, is_segmentation=is_seg)
        if name.endswith(".mha"):
            return lambda file, mask: write_metaimage(file, mask, like)
        if name.endswith(".rtstruct.dcm"):
            return lambda file, mask: encode_rtstruct(file, mask, like, labels)
        if name.endswith(".dcm"):
            return lambda file, mask: encode_seg(file, mask, like, labels)
    allowed = (
        *(VOLUME_SUFFIXES if isinstance(like, Volume) else ()),
        *(PICTURE_SUFFIXES if is_flat else ()),
    )
    raise InputError(
        f"suffix {path.suffix!r} does not fit a mask of shape {_grid(like)}",
        fix=f"use one of {', '.join(allowed)}",
        path=path,
    )


def _grid(like: Volume | Picture) -> tuple[int, ...]:
    return like.size if isinstance(like, Picture) else like.geometry.shape


def _values(
    mask: Shaped[np.ndarray, "..."], like: Volume | Picture, path: Path
) -> Shaped[np.ndarray, "..."]:
    """The mask in the smallest unsigned type."""
    if mask.shape != _grid(like):
        raise InputError(
            f"the mask has the shape {mask.shape}, its image {_grid(like)}",
            fix="give the mask on the grid of the image",
            path=path,
        )
    if mask.dtype == bool:
        return mask.view(np.uint8)
    low, high = mask.min(), mask.max()
    is_whole = mask.dtype.kind in "iu" or (
        mask.dtype.kind == "f" and np.array_equal(mask, mask // 1)
    )
    if not (is_whole and low >= 0 and high < 2**64):
        raise InputError(
            f"the mask holds values from {low} to {high} of type {mask.dtype}, expected whole "
            "numbers >= 0",
            fix="write labels, not probabilities",
            path=path,
        )
    smallest = next(kind for kind in UNSIGNED if int(high) <= np.iinfo(kind).max)
    return mask.astype(smallest, copy=False)


def _write_png(file: BinaryIO, mask: Shaped[np.ndarray, "..."]) -> None:
    flat = mask.reshape(mask.shape[-2:])
    if flat.dtype.itemsize > 2:
        raise InputError("PNG holds values up to 65,535", fix="save it as .tif or .nii.gz")
    Image.fromarray(flat).save(file, format="PNG")


def _write_tiff(file: BinaryIO, mask: Shaped[np.ndarray, "..."]) -> None:
    flat = mask.reshape(mask.shape[-2:])
    tifffile.imwrite(
        file, flat, compression="zlib", photometric="minisblack", metadata=None, software=False
    )
