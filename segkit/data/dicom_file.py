"""One DICOM file, read with suspicion: nothing is allocated that the file cannot contain."""

import io
import logging
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from typing_extensions import override

from segkit.errors import InputError

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
UNDEFINED_LENGTH = 0xFFFFFFFF
PARSE_ERRORS = (
    InvalidDicomError, BytesLengthException, ValueError, TypeError, KeyError, IndexError,
    AttributeError, EOFError, OverflowError, RuntimeError, NotImplementedError, OSError,
    struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and its decoders raise on damaged input."""

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_ONE_PARSER = threading.RLock()
_MAX_INFLATED, _BLOCK = 1 << 30, 8192
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OW PN SH SL SQ SS ST TM UC UI UL UN UR US "
    b"UT".split()
)


class BoundedFile(io.BufferedReader):
    """Binary file that refuses to read or to jump beyond its end.

    Declared lengths of gigabytes in a small file are met before memory is asked for.
    """

    def __init__(self, path: str | Path) -> None:
        raw = io.FileIO(os.fspath(path), "r")
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like a file, but a large value must be there in full."""
        # up to this size the parser reads blocks and looks at what it got
        if size is not None and size > _BLOCK:
            self._check(self.tell() + size)
        return super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Jump like a file, but not beyond the end."""
        if whence == 0:
            self._check(offset)
        return super().seek(offset, whence)

    def _check(self, end: int) -> None:
        if end > self.size:
            raise InputError(
                f"an element ends at byte {end:,}, but the file has {self.size:,} bytes",
                path=str(self.name),
                fix="the file is cut short or damaged; copy or export it again",
                code="truncated",
            )


class PixelMark:
    """Where the pixel data of a file begin: `tag`, `length` in bytes; tag 0 if there are none."""

    def __init__(self) -> None:
        self.tag, self.length = 0, 0

    def __call__(self, tag: BaseTag, _: str | None, length: int) -> bool:
        """Stop the parser at the pixel data."""
        number = int(tag)  # comparing tags as objects is slow
        if number in PIXEL_TAGS:
            self.tag, self.length = number, length
        return number >= 0x7FE00008


def looks_like_dicom(head: bytes) -> tuple[bool, bool]:
    """Whether the first bytes of a file are DICOM, and whether the preamble is there."""
    if head[128:132] == b"DICM":
        return True, True
    if len(head) < 8:
        return False, False
    little, big = struct.unpack("<HH", head[:4]), struct.unpack(">HH", head[:4])
    explicit = head[4:6] in _VRS
    if explicit and (little[0] in (2, 8) or big[0] == 8):
        return True, False
    # implicit little endian begins with group 8 and a short first value
    return little[0] == 8 and little[1] <= 0x100 and head[6:8] == b"\0\0", False


def is_dicom_file(path: str | Path) -> bool:
    """Whether a regular file holds DICOM, by its content."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return looks_like_dicom(file.read(132))[0]
    except OSError:
        return False


@contextmanager
def quiet_parser() -> Iterator[None]:
    """Silence pydicom's remarks on values, in warnings and in its log: they quote patient data."""
    parser_log, mute = logging.getLogger("pydicom"), _Mute()
    # filters of warnings are shared by all threads, and are put back in the order of leaving
    with _ONE_PARSER, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser_log.addFilter(mute)
        try:
            yield
        finally:
            parser_log.removeFilter(mute)


class _Mute(logging.Filter):
    """Drop every record."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return False


@contextmanager
def refuse_damage(path: str | Path) -> Iterator[None]:
    """Turn whatever a parser raises on damaged input into one typed error."""
    try:
        with quiet_parser():
            yield
    except InputError:
        raise
    except PARSE_ERRORS as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: BaseException) -> InputError:
    """Describe a file that cannot be read, without quoting its content."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else None
    return InputError(
        f"cannot be read as DICOM ({reason or type(error).__name__})",
        path=path,
        fix="copy or export the file again, or leave it out with --skip-unreadable",
        code="unreadable",
        option="--skip-unreadable",
    )


def read_dataset(
    path: str | Path, *, tags: list[BaseTag | int] | None = None, pixels: bool = False
) -> tuple[FileDataset, PixelMark]:
    """Parse one file: only the header (`tags` of it), or everything with `pixels=True`.

    Raises:
        InputError: Not DICOM, cut short, or declaring more than the file holds.
    """
    mark = PixelMark()
    with refuse_damage(path), BoundedFile(path) as file:
        head = file.peek(132)[:132]
        if not file.size:
            raise _refusal(path, "is empty (0 bytes)", "empty")
        known, _ = looks_like_dicom(head)
        if not known:
            raise _refusal(path, "is not a DICOM file", "not_dicom")
        if _DEFLATED in file.peek(2048)[:2048]:
            _check_inflated(file)
        stop: Callable[[BaseTag, str | None, int], bool] | None = None if pixels else mark
        dataset = read_partial(file, stop_when=stop, force=True, specific_tags=tags)
        _complete_syntax(dataset)
        if mark.tag and mark.length != UNDEFINED_LENGTH and not is_deflated(dataset):
            file._check(file.tell() + mark.length)
    return dataset, mark


def is_deflated(dataset: FileDataset) -> bool:
    """Whether the data set was compressed as a whole."""
    return str(dataset.file_meta.TransferSyntaxUID) == _DEFLATED.decode()


def _refusal(path: str | Path, cause: str, code: str) -> InputError:
    fix = "copy or export the file again, or leave it out with --skip-unreadable"
    return InputError(cause, path=path, fix=fix, code=code, option="--skip-unreadable")


def _complete_syntax(dataset: FileDataset) -> None:
    """State the transfer syntax of a file without meta information."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit


def _check_inflated(file: BoundedFile) -> None:
    """Refuse a deflated data set that grows beyond the limit, without keeping what it holds."""
    head = file.read(144)
    start = 144 + struct.unpack("<I", head[140:144])[0]
    file.seek(start)
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while (chunk := inflate.unconsumed_tail or file.read1(1 << 16)) and not inflate.eof:
        total += len(inflate.decompress(chunk, 1 << 20))
        if total > _MAX_INFLATED:
            cause = f"its deflated content exceeds {_MAX_INFLATED:,} bytes"
            raise InputError(cause, path=str(file.name), fix="export it uncompressed", code="bomb")
    file.seek(0)
