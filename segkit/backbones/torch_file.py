"""Read `torch.save` files without running anything they contain.

Three gates: the archive must be plain (stored members, sound CRC-32), the pickle inside may name
only what a state dict needs, and torch loads it with `weights_only=True`. There is no other path:
a file that fails one gate is refused.
"""

import pickle
import pickletools
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segkit.errors import CheckpointError

_SAFE_TORCH = (2, 10)
"""First release whose restricted unpickler has no known escape."""

_ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "torch serialization._get_layout",
    "numpy dtype",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray scalar",
    "_codecs encode",
}
_STORAGES = {
    f"torch {kind}Storage"
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte")
} | {"torch BoolStorage", "torch.storage UntypedStorage"}
# training checkpoints of published methods keep a score as a numpy scalar beside the weights
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    _SCALAR,
    np.dtype,
    type(np.dtype("float32")),
    type(np.dtype("float64")),
]
_BROKEN = (
    pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, ValueError, EOFError, KeyError,
    IndexError, TypeError, AttributeError, NotImplementedError,
)  # fmt: skip


def read_torch(file: BufferedReader, path: Path) -> object:
    """Load an open `.pt` / `.pth` / `.ckpt` / `.bin` file onto the CPU; `path` is for messages.

    Raises:
        CheckpointError: The file is cut, damaged, in the format of torch < 1.6, or contains more
            than tensors, numbers and texts; or this torch is too old to read it safely.
    """
    _require_safe_torch(path)
    try:
        _check_archive(file, path)
        file.seek(0)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _BROKEN as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise _refused(path, f"cannot be read as weights ({first})") from error


def _require_safe_torch(path: Path) -> None:
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < _SAFE_TORCH:
        raise CheckpointError(
            f"reading torch files safely needs torch >= 2.10, this is {torch.__version__}",
            fix="update torch, or convert the file to safetensors elsewhere",
            path=path,
            code="unsafe_checkpoint",
        )


def _check_archive(file: BufferedReader, path: Path) -> None:
    file.seek(0)
    if not zipfile.is_zipfile(file):
        raise _refused(path, "not a complete torch file (zip archive of torch >= 1.6)")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) != len(names):
            raise _refused(path, "the archive holds a member twice")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise _refused(path, "the archive is compressed, which torch never does")
        if (bad := archive.testzip()) is not None:
            raise _refused(path, f"checksum of {bad!r} does not match its content")
        pickles = [name for name in names if name.endswith(".pkl")]
        if [name.rpartition("/")[2] for name in pickles] != ["data.pkl"]:
            raise _refused(path, "the archive holds code or no data.pkl; it is no state dict")
        _check_pickle(archive.read(pickles[0]), path)


def _check_pickle(data: bytes, path: Path) -> None:
    """Refuse a pickle that names anything but the parts of tensors, before it is run."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"}:
            raise _refused(path, f"contains the pickle instruction {opcode.name}", unsafe=True)
        if opcode.name == "GLOBAL" and argument not in _ALLOWED | _STORAGES:
            name = str(argument).replace(" ", ".")
            raise _refused(path, f"contains {name!r}, which is no weight", unsafe=True)


def _refused(path: Path, cause: str, *, unsafe: bool = False) -> CheckpointError:
    return CheckpointError(
        cause,
        fix="use a file of tensors from a source you trust, best a .safetensors file"
        if unsafe
        else "copy or download it again",
        path=path,
        code="unsafe_checkpoint" if unsafe else "damaged_checkpoint",
    )
