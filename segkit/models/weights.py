"""Official weight files: where they live, what they must hash to, and how to fetch them."""

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from segkit.errors import CheckpointError, InputError

_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
_CHUNK = 1 << 20
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """A published weight file."""

    model: str
    file: str
    url: str
    sha256: str
    size_bytes: int
    licence: str


def _sam(model: str, file: str, sha256: str, size_bytes: int) -> OfficialFile:
    return OfficialFile(model, file, f"{_SAM_URL}/{file}", sha256, size_bytes, "Apache-2.0")


OFFICIAL: Mapping[str, OfficialFile] = {
    one.model: one
    for one in (
        _sam(
            "sam_vit_b",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375_042_383,
        ),
        _sam(
            "sam_vit_l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
        ),
        _sam(
            "sam_vit_h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
        ),
    )
}
"""Files by model name. The six characters in SAM's file names begin the file's MD5."""


def home_folder() -> Path:
    """Where segkit keeps what it fetches: $SEGKIT_HOME, else ~/.cache/segkit."""
    home = os.environ.get("SEGKIT_HOME")
    return Path(home) if home else Path.home() / ".cache" / "segkit"


def local_file(model: str) -> Path:
    """Where `download` puts the file of a model."""
    return home_folder() / "models" / OFFICIAL[model].file


def download(
    model: str,
    *,
    open_url: Callable[..., Any] = urllib.request.urlopen,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """Fetch the official file of a model, or finish a download that was interrupted.

    The file takes its name only when size and sha256 are right. `progress` hears bytes done and
    in all.

    Raises:
        InputError: No file of that name is known, the network is out of reach, or the folder
            cannot be written or is too small.
        CheckpointError: What arrived is not the official file; it is removed.
    """
    if model not in OFFICIAL:
        raise InputError(
            f"no official weight file is known for {model!r}",
            fix=f"available: {sorted(OFFICIAL)}; other models are converted with `segkit convert`",
            code="unknown_model",
        )
    official, path = OFFICIAL[model], local_file(model)
    if path.is_file() and path.stat().st_size == official.size_bytes and _is_right(path, official):
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(official, part, open_url, progress)
        _check(part, official)
        os.replace(part, path)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise _offline(official, path, error) from error
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror or error})",
            path=path,
            fix="set SEGKIT_HOME to a folder that is writable and has room",
            code="not_writable",
        ) from error
    return path


def _fetch(
    official: OfficialFile,
    part: Path,
    open_url: Callable[..., Any],
    progress: Callable[[int, int], None],
) -> None:
    """Append what is missing; a server that starts from the beginning is believed."""
    done = part.stat().st_size if part.exists() else 0
    if done == official.size_bytes:
        return
    if done > official.size_bytes:
        part.unlink()
        done = 0
    _check_room(official.size_bytes - done, part)
    request = urllib.request.Request(official.url, headers={"User-Agent": "segkit"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    with closing(open_url(request, timeout=_TIMEOUT_S)) as response:
        if response.status != 206:
            done = 0
        with part.open("ab" if done else "wb") as file:
            while done <= official.size_bytes and (chunk := response.read(_CHUNK)):
                file.write(chunk)
                done += len(chunk)
                progress(done, official.size_bytes)
            file.flush()
            os.fsync(file.fileno())
    if done < official.size_bytes:
        raise ConnectionError(f"the connection ended after {done:,} bytes")


def _check_room(needed: int, part: Path) -> None:
    if (free := shutil.disk_usage(part.parent).free) < needed:
        raise InputError(
            f"needs {needed:,} bytes, but only {free:,} are free",
            path=part.parent,
            fix="free some space, or set SEGKIT_HOME to another folder",
            code="no_space",
        )


def _is_right(path: Path, official: OfficialFile) -> bool:
    return _sha256(path) == official.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(part: Path, official: OfficialFile) -> None:
    size, found = part.stat().st_size, _sha256(part)
    if size == official.size_bytes and found == official.sha256:
        return
    part.unlink()
    raise CheckpointError(
        f"the download of {official.file} has {size:,} bytes and sha256 {found}, the official "
        f"file {official.size_bytes:,} bytes and sha256 {official.sha256}",
        fix="it was removed; download it again, and mind proxies that change files",
        path=part.with_suffix(""),
        code="wrong_hash",
    )


def _offline(official: OfficialFile, path: Path, error: BaseException) -> InputError:
    reason = getattr(error, "reason", None) or error
    return InputError(
        f"{official.url} could not be fetched ({reason})",
        fix="run the command again to go on where it stopped; without a network, fetch the file "
        f"elsewhere, put it at {path}, and run the command again to check its sha256",
        code="offline",
    )
