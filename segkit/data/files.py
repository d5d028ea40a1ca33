"""Files opened with care: only regular ones, watched for change, and streamed within bounds."""

import errno
import os
import stat
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NoReturn, Protocol

from segkit.errors import InputError

CHUNK = 2**18  # bytes read at once
STEP = 2**20  # bytes inflated at once, which bounds what a compressed bomb can allocate
MAX_RATIO = 1032  # DEFLATE cannot exceed it (source: zlib technical details, "maximum compression")
MAX_EXCESS = 2**26  # bytes inflated beyond the voxels in search of the trailer
GZIP_MAGIC = b"\x1f\x8b"
COPY_AGAIN = "copy the file again"


class Stream(Protocol):
    """Bytes in order, plain or inflated."""

    def read_into(self, view: memoryview) -> int:
        """Fill `view`; fewer bytes only at the end of the stream."""
        ...

    def skip(self, count: int) -> int:
        """Pass over `count` bytes; fewer only at the end of the stream."""
        ...

    def finish(self) -> int:
        """Read and check what is left; the number of bytes nobody asked for."""
        ...


class RegularFile:
    """A regular file, open for reading; FIFOs, sockets, devices and folders are refused unopened.

    Leaving the context without an error checks that the file did not change meanwhile.

    Raises:
        InputError: The file is absent, unreadable, empty or not regular, or it changed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            _check_regular(self.path, os.stat(self.path))
            # the path could be swapped for a FIFO between stat and open
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
        except OSError as error:
            _refuse(self.path, error)
        except ValueError as error:  # a NUL byte in the name
            raise InputError(f"is no path ({error})", fix="check the path") from error
        self.file: BinaryIO = open(self.path, "rb", opener=lambda *_: handle)  # noqa: SIM115
        status = os.fstat(handle)
        try:
            _check_regular(self.path, status)
            if status.st_size == 0:
                raise InputError("empty file (0 bytes)", fix=COPY_AGAIN, path=self.path)
        except InputError:
            self.file.close()
            raise
        self.size, self._stamp = status.st_size, _stamp(status)

    def __enter__(self) -> "RegularFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.check_unchanged()
        finally:
            self.file.close()

    def check_unchanged(self) -> None:
        """Compare identity, size and time with those at opening."""
        try:
            now = (_stamp(os.fstat(self.file.fileno())), _stamp(os.stat(self.path)))
        except OSError as error:
            raise self._changed() from error
        if now != (self._stamp, self._stamp):
            raise self._changed()

    def peek(self, count: int) -> bytes:
        """First `count` bytes; the position stays."""
        position = self.file.tell()
        self.file.seek(0)
        data = self.file.read(count)
        self.file.seek(position)
        return data

    def _changed(self) -> InputError:
        return InputError(
            "changed during read", fix="read it when nothing writes to it", path=self.path
        )


class PlainStream:
    """The bytes of a file from its current position."""

    def __init__(self, source: RegularFile) -> None:
        self._file = source.file
        self._left = source.size - source.file.tell()

    def read_into(self, view: memoryview) -> int:
        """Fill `view`; fewer bytes only at the end of the stream."""
        got = 0
        while got < len(view) and (count := self._file.readinto(view[got:])):  # type: ignore[attr-defined]
            got += count
        self._left -= got
        return got

    def skip(self, count: int) -> int:
        """Pass over `count` bytes; fewer only at the end of the stream."""
        done = min(count, max(self._left, 0))
        self._file.seek(done, os.SEEK_CUR)
        self._left -= done
        return done

    def finish(self) -> int:
        """Bytes left in the file."""
        return max(self._left, 0)


class DeflateStream:
    """The inflated bytes of a gzip (`wbits` 31) or zlib (15) stream, checked to its trailer.

    Memory is bounded: at most `STEP` bytes are inflated at a time. Several gzip members follow each
    other seamlessly; `garbage_bytes` counts what follows the last complete one.
    """

    def __init__(self, source: RegularFile, wbits: int = 31) -> None:
        self._source, self._wbits = source, wbits
        self._inflate = zlib.decompressobj(wbits)
        self._input = b""
        self._ready = memoryview(b"")
        self.garbage_bytes = 0
        self.total = 0

    def read_into(self, view: memoryview) -> int:
        """Fill `view`; fewer bytes only at the end of the stream.

        Raises:
            InputError: The compressed stream is cut or damaged.
        """
        got = 0
        while got < len(view):
            if not self._ready and not self._more():
                break
            count = min(len(self._ready), len(view) - got)
            view[got : got + count] = self._ready[:count]
            self._ready = self._ready[count:]
            got += count
        self.total += got
        return got

    def skip(self, count: int) -> int:
        """Inflate and forget `count` bytes; fewer only at the end of the stream."""
        scratch = memoryview(bytearray(min(count, STEP)))
        done = 0
        while done < count and (got := self.read_into(scratch[: min(STEP, count - done)])):
            done += got
        return done

    def finish(self) -> int:
        """Inflate to the trailer, which holds the checksum; the number of bytes not asked for."""
        excess = len(self._ready)
        self._ready = memoryview(b"")
        while self._more():
            excess += len(self._ready)
            self._ready = memoryview(b"")
            if excess > MAX_EXCESS:
                raise InputError(
                    f"the compressed stream goes on more than {MAX_EXCESS:,} bytes behind the "
                    "voxels its header announces",
                    fix="the header does not belong to these data; export the file again",
                    path=self._source.path,
                    code="too_large",
                )
        return excess

    def _more(self) -> bool:
        """Inflate the next piece into `_ready`; false at the end of the last member."""
        while True:
            if self._inflate.eof and not self._next_member():
                return False
            if not self._input and not (data := self._source.file.read(CHUNK)):
                self._truncated()
            elif not self._input:
                self._input = data
            try:
                piece = self._inflate.decompress(self._input, STEP)
            except zlib.error as error:
                self._damaged(error)
            self._input = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._input = self._inflate.unused_data
            if piece:
                self._ready = memoryview(piece)
                return True

    def _next_member(self) -> bool:
        tail = self._input
        if len(tail) < len(GZIP_MAGIC):
            tail += self._source.file.read(CHUNK)
        self._input = tail
        if self._wbits != 31 or not tail.startswith(GZIP_MAGIC):
            rest = self._source.size - self._source.file.tell()
            self.garbage_bytes, self._input = len(tail) + rest, b""
            self._source.file.seek(0, os.SEEK_END)
            return False
        self._inflate = zlib.decompressobj(self._wbits)
        return True

    def _truncated(self) -> NoReturn:
        raise InputError(
            f"truncated at byte {self._source.size:,}: the compressed stream has no end",
            fix=COPY_AGAIN,
            path=self._source.path,
        )

    def _damaged(self, error: zlib.error) -> NoReturn:
        text, where = str(error), self._source.file.tell()
        cause = f"damaged compressed data before byte {where:,} ({text.split(': ')[-1]})"
        if "incorrect data check" in text or "incorrect length check" in text:
            cause = f"checksum of the compressed stream does not match ({text.split(': ')[-1]})"
        raise InputError(cause, fix=COPY_AGAIN, path=self._source.path) from error


def check_inflated(source: RegularFile, wanted: int, offset: int = 0) -> None:
    """Refuse a header that asks for more than the compressed bytes behind `offset` can hold."""
    packed = source.size - offset
    if wanted > MAX_RATIO * (packed + 1):
        raise InputError(
            f"the header asks for {wanted:,} bytes, which {packed:,} compressed bytes cannot hold",
            fix="the header is damaged or the file is cut; " + COPY_AGAIN,
            path=source.path,
            code="too_large",
        )


def check_budget(path: Path, wanted: int, max_gb: float) -> None:
    """Refuse to decode more than `max_gb` * 10^9 bytes."""
    if wanted > max_gb * 1e9:
        raise InputError(
            f"the voxels need {wanted / 1e9:,.2f} GB, the limit is {max_gb:g} GB",
            fix=f"raise it with --max-gb {-(-wanted // 10**9)}, or crop the file",
            path=path,
            code="too_large",
            option="--max-gb",
        )


def check_length(source: RegularFile, end: int) -> int:
    """Bytes behind `end`; refuses a file that stops before it."""
    if source.size < end:
        raise InputError(
            f"truncated: ends at byte {source.size:,} of {end:,}", fix=COPY_AGAIN, path=source.path
        )
    return source.size - end


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _check_regular(path: Path, status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise InputError(
            "is a folder, expected a file",
            fix="name the file inside it, or a folder that holds one DICOM series",
            path=path,
        )
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for test, name in kinds if test(mode)), "a device")
        raise InputError(f"is {kind}, not a regular file", fix="copy it to a file", path=path)


def _refuse(path: Path, error: OSError) -> NoReturn:
    target = f" (a link to {os.readlink(path)})" if path.is_symlink() else ""
    causes = {
        errno.ENOENT: (f"does not exist{target}", "check the path"),
        errno.ENOTDIR: ("does not exist: a part of the path is a file", "check the path"),
        errno.EACCES: (f"may not be read{target}", "change its permissions"),
        errno.EPERM: (f"may not be read{target}", "change its permissions"),
        errno.ELOOP: (f"is a loop of links{target}", "remove the link"),
        errno.ENAMETOOLONG: ("has a name that is too long", "rename it"),
    }
    cause, fix = causes.get(error.errno or 0, (f"cannot be read ({error.strerror})", "check it"))
    raise InputError(cause, fix=fix, path=path) from error
