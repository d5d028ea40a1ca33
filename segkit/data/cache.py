"""Model-ready slices on disk: built once, found again by content, rebuilt when damaged.

The key of an entry is a hash of the bytes of the image and the label, of the recipe and of the code
that prepares slices. Whatever changes, the key changes, so that an entry is never stale; old
entries are only in the way, and the folder may be deleted at any time.
"""

import hashlib
import json
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from segkit.data import block_view, preparation, preprocess, resize, stacks
from segkit.data.cases import Case
from segkit.data.digests import DigestMemo
from segkit.data.preparation import Recipe, prepare
from segkit.data.stacks import Stack, StackError, open_stack, write_stack
from segkit.errors import DataWarning, InputError
from segkit.version import VERSION

_TEMPORARY_AGE_S = 3600


def default_cache_dir() -> Path:
    """The folder `cache` in $SEGKIT_HOME, else ~/.cache/segkit."""
    home = os.environ.get("SEGKIT_HOME")
    return Path(home) / "cache" if home else Path.home() / ".cache" / "segkit"


@dataclass(frozen=True, slots=True)
class CaseKey:
    """Content hashes of one case; `label` is empty where there is none."""

    image: tuple[str, ...]
    label: str


class StackCache:
    """Prepared cases in `folder`, one file each (see `stacks`).

    Safe to use from several processes: an entry appears whole or not at all.
    """

    def __init__(self, folder: str | Path | None, recipe: Recipe) -> None:
        self.folder = Path(folder) if folder is not None else default_cache_dir()
        self.recipe = recipe
        self._stacks = self.folder / "stacks"
        try:
            self._stacks.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise self._unwritable(error) from error
        self._memo = DigestMemo(self.folder / "digests.json")
        self._sweep()

    def digest(self, case: Case) -> CaseKey:
        """Content hashes of the files of a case.

        Raises:
            InputError: A file cannot be read.
        """
        try:
            image = tuple(self._memo(path) for path in case.image)
            return CaseKey(image, self._memo(case.label) if case.label else "")
        except OSError as error:
            raise InputError(
                f"cannot be read ({error.strerror})",
                path=error.filename,
                fix="check that the file exists and may be read",
                code="unreadable",
            ) from error

    def remember(self) -> None:
        """Keep the content hashes for the next run."""
        self._memo.save()

    def get(self, case: Case) -> Stack:
        """Open the entry of a case; build it if it is missing or damaged.

        Warns:
            DataWarning: The entry was damaged.

        Raises:
            InputError: The case cannot be read, or the folder cannot be written.
        """
        path = self._path(case)
        try:
            return open_stack(path)
        except FileNotFoundError:
            return self._build(case, path)
        except (StackError, OSError) as error:
            return self.rebuild(case, error)

    def rebuild(self, case: Case, cause: Exception) -> Stack:
        """Replace the entry of a case that turned out damaged."""
        warnings.warn(
            f"cache entry of case {case.id!r} is damaged ({cause}); it is built again from "
            f"{case.image[0]}",
            DataWarning,
            stacklevel=3,
        )
        return self._build(case, self._path(case))

    def _path(self, case: Case) -> Path:
        digest = self.digest(case)
        key = {
            "image": digest.image,
            "label": digest.label,
            "recipe": self.recipe.to_dict(),
            "code": _code_digest(),
        }
        text = json.dumps(key, sort_keys=True)
        return self._stacks / hashlib.sha256(text.encode()).hexdigest()

    def _build(self, case: Case, path: Path) -> Stack:
        facts, slices = prepare(case, self.recipe)
        try:
            handle, name = tempfile.mkstemp(dir=self._stacks, suffix=".tmp")
        except OSError as error:
            raise self._unwritable(error) from error
        # not synced to disk: after a power cut the CRC finds out, and the entry is built again
        try:
            with os.fdopen(handle, "wb") as stream:
                write_stack(stream, facts, slices)
            os.replace(name, path)
        except OSError as error:
            Path(name).unlink(missing_ok=True)
            raise self._unwritable(error) from error
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return open_stack(path)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"the cache cannot be written ({error.strerror})",
            path=self.folder,
            fix="free some space, or choose another folder with cache_dir or SEGKIT_HOME",
            code="cache",
            option="cache_dir",
        )

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for path in self._stacks.glob("*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > _TEMPORARY_AGE_S:
                    path.unlink()
            except OSError:
                continue


@cache
def _code_digest() -> str:
    # the code is part of the key: a changed resampling must not meet slices of the old one
    modules = (block_view, preparation, preprocess, resize, stacks)
    parts = [Path(module.__file__ or "").read_bytes() for module in modules]
    return hashlib.sha256(b"\0".join([VERSION.encode(), *parts])).hexdigest()
