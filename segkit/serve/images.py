"""Images that clients send: checked before they are decoded, overwritten when they go."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from segkit.client.codec import MAGIC as SKA1
from segkit.client.codec import Buffer, decode, read_header
from segkit.data.options import ReadOptions
from segkit.data.readers import load
from segkit.data.volume import Picture, Volume
from segkit.geometry import Geometry
from segkit.serve import nnia
from segkit.serve.faults import bad
from segkit.serve.messages import Message, Number

Kind = Literal["volume", "picture"]
T = TypeVar("T")
SUFFIXES = (
    ".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff",
    ".dcm",
)  # fmt: skip
"""What files may be called; nothing else of a client's file name is used."""

Affine = tuple[tuple[Number, Number, Number, Number], ...]


class About(Message):
    """What comes with an array: its frame, as an affine (i, j, k) to RAS or as spacings (k, j, i).

    Without either, nothing is known in millimetres. `kind` "picture" is (rows, columns[, 3]). With
    `is_led` the array has a first axis of length one, as nnInteractive clients send it.
    """

    kind: Kind = "volume"
    is_led: bool = False
    affine: Affine | None = None
    spacing_mm: tuple[Number, ...] | None = None


class FileAbout(Message):
    """What comes with a file: its suffix, which chooses the reader."""

    suffix: str


@dataclass(slots=True, eq=False)
class Image:
    """An image of one client. `payload` and `about` are enough to build it again."""

    source: Volume | Picture
    payload: Buffer
    about: dict[str, object]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in array order, without colours."""
        return self.source.size if isinstance(self.source, Picture) else self.source.array.shape

    @property
    def is_picture(self) -> bool:
        """Whether it has no third axis."""
        return isinstance(self.source, Picture)

    @property
    def n_bytes(self) -> int:
        """Bytes in memory: voxels, what came over the wire, and one mask."""
        return self.source.array.nbytes + len(self.payload) + int(np.prod(self.shape))

    def wipe(self) -> None:
        """Overwrite what belongs to the patient."""
        if self.source.array.flags.writeable:
            self.source.array.fill(0)
        if not memoryview(self.payload).readonly:
            np.frombuffer(self.payload, dtype=np.uint8).fill(0)

    def describe(self) -> dict[str, object]:
        """What a client may know about it."""
        found: dict[str, object] = {"shape": list(self.shape), "kind": "picture"}
        found["dtype"] = self.source.array.dtype.name
        if isinstance(self.source, Volume):
            geometry = self.source.geometry
            found |= {"kind": "volume", "spacing_mm": list(geometry.spacing_mm)}
            found |= {"affine": geometry.affine.tolist(), "is_known": geometry.is_known}
        else:
            found["is_colour"] = self.source.array.ndim == 3
        return found


def from_array(data: Buffer, about: About, *, max_bytes: int) -> Image:
    """Image of an array in one of the two codecs.

    Raises:
        CodecError: The bytes are damaged, or too large.
        Refusal: Array and `about` do not fit, or a voxel is NaN or infinite.
    """
    array = decode_any(data, max_bytes=max_bytes)
    if about.is_led:
        if array.ndim != 4 or len(array) != 1:
            raise bad(f"expected one channel (1, x, y, z), got shape {array.shape}", "bad_shape")
        array = array[0]
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    if array.size == 0:
        raise bad(f"the image is empty, its shape is {array.shape}", "empty_image")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise bad("the image holds NaN or infinite voxels; replace them", "not_finite")
    if about.kind == "picture":
        return Image(_picture(array, about), data, about.model_dump(mode="json"))
    if array.ndim != 3:
        raise bad(f"a volume has three axes, got shape {array.shape}", "bad_shape")
    return Image(Volume(array, _geometry(array, about)), data, about.model_dump(mode="json"))


def from_file(data: Buffer, about: FileAbout, folder: Path, *, max_bytes: int) -> Image:
    """Image of a file in any format segkit reads, through a private file that is deleted again.

    Raises:
        InputError: The file cannot be read as it is.
        Refusal: The suffix is not one that is known.
    """
    suffix = about.suffix.lower()
    if suffix not in SUFFIXES:
        raise bad(f"unknown suffix; known: {', '.join(SUFFIXES)}", "bad_suffix")
    options = ReadOptions(max_gb=max_bytes / 1e9)
    source = with_file(folder, suffix, data, lambda path: load(path, options))
    return Image(_anonymous(source), data, {"suffix": suffix})


def from_files(parts: Sequence[Buffer], folder: Path, *, max_bytes: int) -> Image:
    """Volume of the files of a DICOM series; kept as an array, not as files."""
    private = folder / f"upload-{secrets.token_hex(8)}.tmp"
    private.mkdir(mode=0o700)
    try:
        for number, part in enumerate(parts):
            (private / f"{number:06d}.dcm").write_bytes(part)
        source = _anonymous(load(private, ReadOptions(max_gb=max_bytes / 1e9)))
    finally:
        for path in private.iterdir():
            path.unlink()
        private.rmdir()
    if isinstance(source, Picture):
        raise bad("the files make no volume", "bad_shape")
    affine = tuple(map(tuple, source.geometry.affine.tolist()))
    about = About.model_validate({"affine": affine})
    return Image(source, nnia.pack(source.array, nnia.LZ4), about.model_dump(mode="json"))


def declared_bytes(data: Buffer) -> int:
    """Size of the array that a body declares, before anything is allocated."""
    if bytes(data[:4]) == SKA1:
        return read_header(data).n_bytes
    return nnia.declared_bytes(data)


def decode_any(data: Buffer, *, max_bytes: int) -> np.ndarray:
    """Array in the segkit or in the nnInteractive codec; the first bytes say which."""
    if bytes(data[:4]) == SKA1:
        return decode(data, max_bytes=max_bytes)
    return nnia.unpack(data, max_bytes=max_bytes)


def rebuild(data: bytes, about: dict[str, object], folder: Path, *, max_bytes: int) -> Image:
    """Image from what was stored of it."""
    if "suffix" in about:
        return from_file(data, FileAbout.model_validate(about), folder, max_bytes=max_bytes)
    return from_array(bytearray(data), About.model_validate(about), max_bytes=max_bytes)


def with_file(folder: Path, suffix: str, data: Buffer, use: Callable[[Path], T]) -> T:
    """Call `use` with a private file that holds `data` and does not outlive the call."""
    path = folder / f"upload-{secrets.token_hex(8)}.tmp{suffix}"
    try:
        path.touch(mode=0o600)
        path.write_bytes(data)
        return use(path)
    finally:
        path.unlink(missing_ok=True)


def _anonymous(source: Volume | Picture) -> Volume | Picture:
    """Drop the name of the private file, which means nothing to anybody."""
    if isinstance(source, Picture):
        return Picture(np.array(source.array), None, source.spacing_mm)
    return Volume(np.array(source.array), source.geometry, None, {}, source.header)


def _picture(array: np.ndarray, about: About) -> Picture:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise bad(f"a picture is (rows, columns) or with 3 colours: {array.shape}", "bad_shape")
    spacing = about.spacing_mm
    if spacing is not None and (len(spacing) != 2 or min(spacing) <= 0):
        raise bad("spacing_mm of a picture must be two numbers > 0", "bad_spacing")
    return Picture(array, None, None if spacing is None else (spacing[0], spacing[1]))


def _geometry(array: np.ndarray, about: About) -> Geometry:
    k, j, i = array.shape
    if about.affine is not None:
        try:
            return Geometry((k, j, i), np.array(about.affine, dtype=np.float64))
        except ValueError as error:
            raise bad(str(error), "bad_affine") from error
    spacing = about.spacing_mm
    if spacing is None:
        return Geometry.from_spacing((k, j, i), (1.0, 1.0, 1.0), is_known=False)
    if len(spacing) != 3 or min(spacing) <= 0:
        raise bad("spacing_mm must be three numbers > 0 in array order", "bad_spacing")
    return Geometry.from_spacing((k, j, i), (spacing[0], spacing[1], spacing[2]))
