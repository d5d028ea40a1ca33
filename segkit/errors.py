"""The typed errors a user can meet; every refusal names file, cause and remedy."""

from pathlib import Path


class SegkitError(Exception):
    """Base of all errors raised on purpose; the command line prints them as one block."""


class InputError(SegkitError, ValueError):
    """A file, label, prompt or setting that cannot be used as it is.

    `path` is where it was found, `cause` what is wrong, `fix` what the user can do; `code` is the
    identifier a server or a script can act on; `option` names the option that makes a refusal
    proceed, if there is one.
    """

    def __init__(
        self,
        cause: str,
        *,
        fix: str = "",
        path: str | Path | None = None,
        code: str = "invalid_input",
        option: str | None = None,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.cause, self.fix, self.code, self.option = cause, fix, code, option
        where = f"{path}: " if path is not None else ""
        super().__init__(f"{where}{cause}" + (f"; {fix}" if fix else ""))


class CheckpointError(InputError):
    """A weight file that does not fit, is damaged or is not safe to read."""


class MissingExtraError(SegkitError, ImportError):
    """An optional package is needed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}; install it with: pip install 'segkit[{extra}]'"
        )


class DataWarning(UserWarning):
    """Input is usable, but one fact about it deserves attention; names file and fact."""
