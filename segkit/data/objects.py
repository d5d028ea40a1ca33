"""Images that are already in memory, as `Volume` or `Picture`."""

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from segkit.data.options import ReadOptions
from segkit.data.readers import load
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.geometry import Geometry

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Source = (
    str
    | Path
    | Volume
    | Picture
    | nibabel.spatialimages.SpatialImage
    | SimpleITK.Image
    | np.ndarray
    | tuple[np.ndarray, Geometry]
)


def as_source(source: Source, options: ReadOptions | None = None) -> Volume | Picture:
    """Bring anything a person may hold into the two types that segkit works with.

    A path goes through `load` with `options`; nibabel and SimpleITK images keep their frame; an
    array `(h, w)` or `(h, w, 3)` is a picture; `(array, Geometry)` is a volume in the order
    (k, j, i).

    Raises:
        InputError: The object is of another type, or a volume comes without a geometry.
    """
    match source:
        case str() | Path():
            return load(source, options)
        case Volume() | Picture():
            return source
        case nibabel.spatialimages.SpatialImage():
            return from_nibabel(source)
        case SimpleITK.Image():
            return from_simpleitk(source)
        case np.ndarray() if source.ndim == 2 or (source.ndim == 3 and source.shape[-1] == 3):
            return Picture(source)
        case np.ndarray():
            raise InputError(
                f"an array of shape {source.shape} carries no geometry",
                fix="open((array, segkit.Geometry(shape, affine))) with the array in (k, j, i)",
            )
        case (np.ndarray() as array, Geometry() as geometry):
            if array.shape != geometry.shape:
                raise InputError(
                    f"array has shape {array.shape}, its geometry {geometry.shape}",
                    fix="both are in array order (k, j, i)",
                )
            return Volume(array, geometry)
    raise InputError(
        f"cannot open an object of type {type(source).__name__}",
        fix="allowed: a path, a DICOM folder, a SimpleITK or nibabel image, a 2D array, "
        "or (array, Geometry)",
    )


def from_nibabel(image: nibabel.spatialimages.SpatialImage) -> Volume:
    """Volume of a nibabel image; its affine must be the one that is meant."""
    array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise InputError(f"image has shape {array.shape}, 3-D needed", fix="choose one frame first")
    array = np.ascontiguousarray(array.T)
    return Volume(array, Geometry(array.shape, np.asarray(image.affine, dtype=np.float64)))


def from_simpleitk(image: SimpleITK.Image) -> Volume:
    """Volume of a SimpleITK image."""
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"image has {image.GetDimension()} dimensions and "
            f"{image.GetNumberOfComponentsPerPixel()} components, a scalar 3-D image is needed",
            fix="extract one frame or component first",
        )
    array = SimpleITK.GetArrayFromImage(image)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(array, Geometry(array.shape, LPS_TO_RAS @ affine))
