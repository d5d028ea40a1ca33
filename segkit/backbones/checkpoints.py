"""Weight files: strict, hashed, and never executed.

`read_state_dict` reads safetensors and, on request, torch files; `load_strictly` compares every key
and shape before it changes anything; `load_sam` does both for official SAM files. A file is
hashed and read through one open descriptor, so what was verified is what is loaded.
"""

import difflib
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segkit.backbones.safetensors_file import (
    content_sha256,
    read_safetensors,
    write_safetensors,
)
from segkit.backbones.torch_file import read_torch
from segkit.errors import CheckpointError

if TYPE_CHECKING:  # importing it takes as long as torch
    from segkit.backbones.sam_modules import SamModules

__all__ = [
    "KeyReport",
    "WeightFile",
    "content_sha256",
    "file_sha256",
    "load_sam",
    "load_strictly",
    "path_inside",
    "read_content",
    "read_state_dict",
    "read_weights",
    "write_safetensors",
]

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".model")
_WRAPPERS = ("model", "state_dict", "model_state_dict", "network_weights")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What a weight file holds; `sha256` is that of the file, `metadata` is empty for torch."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


@dataclass(frozen=True, slots=True)
class KeyReport:
    """How the keys of a file differ from those of a model.

    `mismatched` maps a key to (expected shape, found shape).
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None

    @classmethod
    def compare(cls, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> "KeyReport":
        """Compare names and shapes."""
        shapes = {
            name: (tuple(expected[name].shape), tuple(found[name].shape))
            for name in expected
            if name in found and expected[name].shape != found[name].shape
        }
        return cls(
            tuple(name for name in expected if name not in found),
            tuple(name for name in found if name not in expected),
            shapes,
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        return self.text(limit=_SHOWN)

    def text(self, *, limit: int | None = None) -> str:
        """Describe the differences with at most `limit` keys of each kind."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing: {_listed(self.missing, limit)}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected: {_listed(self.unexpected, limit)}")
        if self.mismatched:
            texts = [f"{k} expected {e}, found {f}" for k, (e, f) in self.mismatched.items()]
            parts.append(f"{len(texts)} of another shape: {_listed(texts, limit)}")
        if self.missing and self.unexpected:
            near = difflib.get_close_matches(self.missing[0], self.unexpected, n=1)
            parts += [f"is {near[0]} meant to be {self.missing[0]}?"] if near else []
        return "; ".join(parts) or "all keys match"

    def raise_if_any(self, path: str | Path) -> None:
        """Raise one CheckpointError that lists every kind of difference."""
        if self:
            raise CheckpointError(
                f"keys do not fit the model: {self}",
                fix="choose the model these weights were made for",
                path=path,
                code="keys_differ",
            )


def file_sha256(path: str | Path) -> str:
    """Hash a file."""
    with closing(open_regular(Path(path))) as file:
        return _hash(file)


def read_weights(
    path: str | Path, *, allow_torch: bool = False, sha256: str | None = None
) -> WeightFile:
    """Read, verify and hash a weight file; torch files only with `allow_torch`.

    `sha256` is the expected hash; without it a sidecar `<file>.sha256` is used if there is one.
    Tensors of safetensors files view a mapping of the file; copy what should outlive changes to it.

    Raises:
        CheckpointError: Not a regular file, empty, cut, damaged, of another hash, unsafe, not a
            state dict, or with values that are not finite.
    """
    path = Path(path)
    metadata: dict[str, str] = {}
    with closing(open_regular(path)) as file:
        found = _hash(file)
        _check_hash(path, found, sha256 or _sidecar(path))
        if _is_torch(file, path):
            if not allow_torch:
                raise CheckpointError(
                    "is a torch file, here only safetensors files are read",
                    fix="convert it with: segkit convert --from FAMILY IN -o OUT",
                    path=path,
                    code="unsafe_checkpoint",
                )
            tensors = _unwrap(read_torch(file, path), path)
        else:
            tensors, metadata = read_safetensors(file, path)
    _check_finite(tensors, path)
    return WeightFile(tensors, metadata, found)


def read_content(path: str | Path) -> tuple[object, str]:
    """Read a torch file that is more than one state dict, and its sha256.

    Raises:
        CheckpointError: As `read_weights`, but for values that are not finite.
    """
    path = Path(path)
    with closing(open_regular(path)) as file:
        found = _hash(file)
        _check_hash(path, found, _sidecar(path))
        return read_torch(file, path), found


def read_state_dict(
    path: str | Path, *, allow_torch: bool = False, sha256: str | None = None
) -> dict[str, Tensor]:
    """Read only the tensors of a weight file; see `read_weights`."""
    return read_weights(path, allow_torch=allow_torch, sha256=sha256).tensors


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy tensors into a module; refuses, before anything changes, unless all keys fit.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape.
    """
    KeyReport.compare(module.state_dict(), tensors).raise_if_any(path)
    module.load_state_dict(tensors)


def load_sam(modules: "SamModules", path: str | Path, *, sha256: str | None = None) -> str:
    """Load an official SAM file, or one in its key layout, and return its sha256.

    Both `.pth` and `.safetensors` are read. Models for other image sizes load the same file: the
    native sizes are kept and resized in the forward pass. MedSAM's file has the same keys but
    expects other pixel values; `segkit convert --from medsam` adapts it.

    Raises:
        CheckpointError: See `read_weights` and `load_strictly`.
    """
    weights = read_weights(path, allow_torch=True, sha256=sha256)
    load_strictly(modules, weights.tensors, path)
    return weights.sha256


def path_inside(folder: str | Path, name: str) -> Path:
    """Resolve a file that a model folder names, and refuse to leave the folder.

    Raises:
        CheckpointError: `name` is absolute, climbs out of `folder` or is a link that does.
    """
    root = Path(folder).resolve()
    if not (path := (root / name).resolve()).is_relative_to(root):
        raise CheckpointError(
            f"names the file {name!r}, which lies outside of the folder",
            fix="put the file into the folder and name it relative to it",
            path=folder,
            code="unsafe_checkpoint",
        )
    return path


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading in which something can be.

    Raises:
        CheckpointError: There is none, it is no regular file, or it is empty.
    """
    if not path.exists():
        raise CheckpointError("no such file", fix="check the name", path=path, code="not_found")
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pth"))
        fix = f"name one of {inside[:5]}" if inside else "name the weight file"
        raise CheckpointError("is a folder, not a weight file", fix=fix, path=path)
    if not stat.S_ISREG(mode):
        raise CheckpointError("is not a regular file", fix="name a weight file", path=path)
    file = path.open("rb")
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise CheckpointError(
            "is empty (0 bytes)",
            fix="copy or download it again",
            path=path,
            code="damaged_checkpoint",
        )
    return file


def _hash(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _sidecar(path: Path) -> str | None:
    beside = path.with_name(path.name + ".sha256")
    return (beside.read_text().split() or [""])[0] if beside.is_file() else None


def _check_hash(path: Path, found: str, expected: str | None) -> None:
    if expected is not None and found != expected.lower():
        raise CheckpointError(
            f"sha256 is {found}, expected {expected}",
            fix="copy or download it again",
            path=path,
            code="hash_differs",
        )


def _is_torch(file: BufferedReader, path: Path) -> bool:
    """Decide on content: torch files are zip archives; old ones are known by their suffix."""
    file.seek(0)
    start = file.read(2)
    return start == b"PK" or (path.suffix in TORCH_SUFFIXES)


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """Find the state dict: the content itself or the entry training checkpoints keep it in."""
    if isinstance(content, dict):
        for name in _WRAPPERS:
            if isinstance(inner := content.get(name), dict):
                content = inner
                break
        if content and all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
        ):
            return dict(content)
        found = f"the entries {[str(name) for name in content][:5]}"
    else:
        found = f"a {type(content).__name__}"
    raise CheckpointError(
        f"holds {found}, expected a state dict or one under {list(_WRAPPERS)}",
        fix="save model.state_dict() alone",
        path=path,
    )


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    bad = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise CheckpointError(
            f"{len(bad)} tensors hold NaN or infinite values: {_listed(bad)}",
            fix="use an earlier checkpoint",
            path=path,
            code="not_finite",
        )


def _listed(names: Sequence[str], limit: int | None = _SHOWN) -> str:
    shown = names[:limit]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
