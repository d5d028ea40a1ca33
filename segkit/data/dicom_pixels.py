"""Stored bits to modality values (e.g. Hounsfield units), slice by slice and exact."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from pydicom.dataset import FileDataset
from pydicom.pixels import apply_color_lut, get_decoder, iter_pixels
from pydicom.uid import RLELossless

from segkit.data.dicom_file import quiet_parser, read_dataset, refuse_damage
from segkit.data.dicom_frames import Encoding, Frame
from segkit.errors import InputError

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_LUMA = np.array([0.299, 0.587, 0.114])  # source: ITU-R BT.601


def read_stack(
    frames: Sequence[Frame], folder: Path, *, luminance: bool = False, max_gb: float = 4.0
) -> Shaped[np.ndarray, "slices rows columns"]:
    """Decode frames and rescale each with its own slope and intercept.

    The type is the smallest that holds every possible value: an integer where slopes and
    intercepts are whole numbers, float32 otherwise.

    Raises:
        InputError: Colour without `luminance`, more than `max_gb`, a missing codec, damaged
            pixels, or a rescaling that is not a plain slope and intercept.
    """
    for frame in frames:
        _check_supported(frame, luminance)
    kind = modality_type(frames)
    first = frames[0].encoding
    shape = (len(frames), first.rows, first.columns)
    if (needed := float(np.prod(shape, dtype=np.float64)) * kind.itemsize) > max_gb * 1e9:
        raise InputError(
            f"needs {needed / 1e9:.3g} GB for {shape} voxels, {max_gb:g} GB are allowed",
            path=folder,
            fix="allow more with --max-gb, or read fewer files",
            code="too_large",
            option="--max-gb",
        )
    stack = np.empty(shape, dtype=kind)
    by_file: dict[str, list[int]] = defaultdict(list)
    for position, frame in enumerate(frames):
        by_file[frame.path].append(position)
    for path, positions in by_file.items():
        chosen = [frames[position] for position in positions]
        for position, values in zip(positions, decode_file(path, chosen), strict=True):
            stack[position] = _rescale(values, frames[position], kind)
    return stack


def stored_pixels(frame: Frame) -> Shaped[np.ndarray, "rows columns"]:
    """Stored values of one frame before rescaling."""
    (values,) = decode_file(frame.path, [frame])
    return values


def modality_type(frames: Sequence[Frame]) -> np.dtype:
    """Smallest type that holds every value the frames can have."""
    low, high = 0, 0
    for slope, intercept, encoding in {(f.slope, f.intercept, f.encoding) for f in frames}:
        is_whole = slope == int(slope) and intercept == int(intercept)
        if encoding.is_float or encoding.photometric not in _GREY or not is_whole:
            return np.dtype(np.float32)
        ends = [int(slope) * end + int(intercept) for end in _stored_range(encoding)]
        low, high = min(low, *ends), max(high, *ends)
    for kind in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float64)


def mask_to_stored_bits(
    pixels: Shaped[np.ndarray, "*shape"], encoding: Encoding, *, is_native: bool
) -> Shaped[np.ndarray, "*shape"]:
    """Drop bits above and below the stored ones (overlays hide there) and extend the sign."""
    width = pixels.dtype.itemsize * 8
    bits, shift = encoding.bits_stored, encoding.high_bit + 1 - encoding.bits_stored
    if encoding.is_float or bits >= width:
        return pixels
    # big-endian files give big-endian arrays; the bits are those of native ones
    values = pixels.astype(pixels.dtype.newbyteorder("=")).view(f"u{pixels.dtype.itemsize}")
    values = (values >> (shift if is_native else 0)) & ((1 << bits) - 1)
    if not encoding.is_signed:
        return values
    sign = 1 << (bits - 1)
    return (values.astype(np.int64) ^ sign) - sign


def _stored_range(encoding: Encoding) -> tuple[int, int]:
    if encoding.is_signed:
        return -(1 << (encoding.bits_stored - 1)), (1 << (encoding.bits_stored - 1)) - 1
    return 0, (1 << encoding.bits_stored) - 1


def _check_supported(frame: Frame, luminance: bool) -> None:
    encoding = frame.encoding
    if encoding.photometric not in _GREY and not (luminance and encoding.photometric in _COLOUR):
        is_colour = encoding.photometric in _COLOUR
        raise InputError(
            f"holds {encoding.photometric} pixels; MONOCHROME1 and MONOCHROME2 are read",
            path=frame.path,
            fix="turn colour grey with --luminance" if is_colour else "export it as MONOCHROME2",
            code="colour",
            option="--luminance" if is_colour else None,
        )
    if encoding.has_lut or not np.isfinite(frame.slope) or frame.slope == 0:
        found = "a Modality LUT Sequence" if encoding.has_lut else f"RescaleSlope {frame.slope:g}"
        raise InputError(
            f"has {found}; a finite RescaleSlope other than 0 is needed",
            path=frame.path,
            fix="export the series with a plain rescale slope and intercept",
            code="rescale",
        )


def decode_file(path: str, frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    """Stored values of frames of one file, in the order asked for."""
    dataset, _ = read_dataset(path, pixels=True)
    _check_codec(path, dataset.file_meta.TransferSyntaxUID)
    decoded = _decode(dataset, frames)
    while True:
        # the guard must not be open while the caller has the turn
        with refuse_damage(path):
            pixels = next(decoded, None)
        if pixels is None:
            return
        yield pixels


def _decode(dataset: FileDataset, frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    syntax = dataset.file_meta.TransferSyntaxUID
    is_native = not syntax.is_encapsulated or syntax == RLELossless
    encoding = frames[0].encoding
    is_colour = encoding.photometric not in _GREY
    if frames[0].tile is not None:
        (whole,) = _frames_of(dataset, [0], is_colour)
        whole = mask_to_stored_bits(whole, encoding, is_native=is_native)
        for row, column in (frame.tile for frame in frames if frame.tile is not None):
            yield whole[row : row + encoding.rows, column : column + encoding.columns]
        return
    for pixels in _frames_of(dataset, [frame.index for frame in frames], is_colour):
        if pixels.shape != (encoding.rows, encoding.columns):
            raise ValueError("decoded size differs from the header")
        if is_colour:
            yield pixels
        else:
            yield mask_to_stored_bits(pixels, encoding, is_native=is_native)


def _frames_of(
    dataset: FileDataset, indices: Sequence[int], is_colour: bool
) -> Iterator[np.ndarray]:
    # unused bits are removed by `mask_to_stored_bits`, which knows the high bit
    decoded = iter_pixels(dataset, indices=indices, raw=not is_colour, correct_unused_bits=False)
    for pixels in decoded:
        yield _grey(pixels, dataset) if is_colour else pixels


def _grey(pixels: np.ndarray, dataset: FileDataset) -> np.ndarray:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        top = 2.0 ** int(dataset.RedPaletteColorLookupTableDescriptor[2]) - 1
        pixels = pixels * (255.0 / top)
    return pixels.astype(np.float64) @ _LUMA


def _check_codec(path: str, syntax: object) -> None:
    name = getattr(syntax, "name", str(syntax))
    try:
        with quiet_parser():
            decoder = get_decoder(str(syntax))
    except NotImplementedError as error:
        raise InputError(
            f"is stored as {name}, which is not read",
            path=path,
            fix="convert it to Explicit VR Little Endian",
            code="transfer_syntax",
        ) from error
    if not decoder.is_available:
        raise InputError(
            f"is stored as {name}, which needs a codec that is not installed",
            path=path,
            fix="install it with: pip install 'segkit[dicom]'",
            code="missing_codec",
        )


def _rescale(values: np.ndarray, frame: Frame, kind: np.dtype) -> np.ndarray:
    if frame.slope == 1 and frame.intercept == 0 and kind.kind in "iu":
        return values.astype(kind)
    scaled = values.astype(np.float64) * frame.slope + frame.intercept
    if kind.kind in "iu":
        return scaled.astype(kind)
    if np.isfinite(scaled).all() and np.abs(scaled).max(initial=0) > np.finfo(np.float32).max:
        raise InputError(
            "holds values beyond the range of float32",
            path=frame.path,
            fix="check RescaleSlope and RescaleIntercept",
            code="overflow",
        )
    return scaled.astype(kind)
