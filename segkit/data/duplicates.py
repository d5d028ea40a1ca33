"""Find files with identical content, reading as little as possible."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

_BLOCK = 1 << 16
_CHUNK = 1 << 20


def file_digest(path: Path) -> str:
    """SHA-256 of the content, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def identical_files(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Groups of two or more byte-identical files, in the order of `paths`.

    Files are compared by size, then by a few blocks, and are read in full only if those agree;
    missing files and a path given twice do not count.
    """
    groups = [tuple(path for path in dict.fromkeys(paths) if path.is_file())]
    keys: tuple[Callable[[Path], Hashable], ...] = (_size, _sample, file_digest)
    for key in keys:
        groups = [part for group in groups for part in _partition(group, key)]
    return groups


def _partition(group: Sequence[Path], key: Callable[[Path], Hashable]) -> list[tuple[Path, ...]]:
    parts: dict[Hashable, list[Path]] = defaultdict(list)
    for path in group:
        parts[key(path)].append(path)
    return [tuple(part) for part in parts.values() if len(part) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _sample(path: Path) -> bytes:
    """First, middle and last block."""
    size = _size(path)
    with path.open("rb") as stream:
        blocks = []
        for offset in (0, size // 2, max(0, size - _BLOCK)):
            stream.seek(offset)
            blocks.append(stream.read(_BLOCK))
    return hashlib.sha256(b"".join(blocks)).digest()
