"""Slices as PNG for the browser page, and masks as files."""

import io
import secrets
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from segkit.data.volume import Picture, Volume
from segkit.data.writers import save
from segkit.serve.faults import bad

FORMATS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha", ".png", ".tif")
MASK_COLOUR = (255, 96, 0)
MASK_ALPHA = 120


def image_png(
    source: Volume | Picture, axis: int, index: int, window: tuple[float, float]
) -> bytes:
    """One slice as an 8-bit PNG; `window` are the values that become black and white."""
    plane = _plane(source.array, axis, index, is_flat=isinstance(source, Picture))
    low, high = window
    if plane.dtype == np.uint8 and (low, high) == (0, 255):
        return _png(plane)
    scale = 255.0 / max(high - low, 1e-9)
    return _png(np.clip((plane.astype(np.float32) - low) * scale, 0, 255).astype(np.uint8))


def mask_png(mask: np.ndarray, axis: int, index: int) -> bytes:
    """One slice of a mask as a transparent PNG."""
    plane = _plane(mask, axis, index, is_flat=mask.ndim == 2)
    pixels = np.zeros((*plane.shape, 4), np.uint8)
    pixels[plane != 0] = (*MASK_COLOUR, MASK_ALPHA)
    return _png(pixels)


def default_window(source: Volume | Picture) -> tuple[float, float]:
    """Values of the darkest and the brightest percent, of a sample of the voxels."""
    array = source.array
    if array.dtype == np.uint8:
        return (0.0, 255.0)
    steps = tuple(slice(None, None, max(1, size // 64)) for size in array.shape)
    low, high = np.percentile(array[steps], (1, 99))
    return (float(low), float(high) if high > low else float(low) + 1.0)


def mask_file(
    mask: np.ndarray, like: Volume | Picture, name: str, suffix: str, folder: Path
) -> bytes:
    """Mask as a file on the grid of its image, through a private file that is deleted again."""
    if suffix not in FORMATS:
        raise bad(f"unknown format; known: {', '.join(FORMATS)}", "bad_suffix")
    path = folder / f"mask-{secrets.token_hex(8)}{suffix}"
    try:
        save(path, mask, like, labels={1: name} if mask.dtype == np.bool_ else None)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def _plane(array: np.ndarray, axis: int, index: int, *, is_flat: bool) -> np.ndarray:
    if is_flat:
        return array
    if axis not in (0, 1, 2) or not 0 <= index < array.shape[axis]:
        raise bad(f"there is no slice {index} on axis {axis}", "bad_slice")
    return np.take(array, index, axis=axis)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG", compress_level=1)
    return file.getvalue()
