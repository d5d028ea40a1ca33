"""Refusals: what a client is told, and never a path, a name or a token in it."""

import logging
import traceback

import torch
from fastapi.exceptions import RequestValidationError

from segkit.client.codec import CodecError, TooLargeError
from segkit.errors import InputError, SegkitError
from segkit.predictors.watch import CancelledError

log = logging.getLogger(__name__)


class Refusal(Exception):  # noqa: N818 (an answer, not a failure)
    """An answer with an error status; `code` is a fixed word that a client can act on."""

    def __init__(
        self, status: int, detail: str, code: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.code, self.headers = status, detail, code, headers or {}


class Cancelled(Exception):  # noqa: N818 (asked for by the client)
    """Work that was called off."""


def bad(detail: str, code: str = "invalid_request") -> Refusal:
    """400: the request is wrong."""
    return Refusal(400, detail, code)


def unknown(what: str) -> Refusal:
    """404, the same for what never existed and for what belongs to another client."""
    return Refusal(404, f"there is no such {what}", "not_found")


def gone(why: str) -> Refusal:
    """410: it existed, or may have."""
    return Refusal(410, why, "gone")


def busy(detail: str, seconds: int = 10) -> Refusal:
    """503: no place or memory is free now."""
    return Refusal(503, detail, "busy", {"Retry-After": str(seconds)})


def as_refusal(error: BaseException) -> Refusal:
    """Answer for any error; what is not expected is logged without its message.

    Messages of unexpected errors may hold data of a patient; file and line of our code do not.
    """
    match error:
        case Refusal():
            return error
        case RequestValidationError():
            return bad("a parameter of the request is missing or has another type", "bad_field")
        case TooLargeError():
            return Refusal(413, str(error), "too_large")
        case CodecError():
            return bad(str(error), "bad_body")
        case InputError():
            # the message without the file it names
            detail = error.cause + (f"; {error.fix}" if error.fix else "")
            return Refusal(413 if error.code == "too_large" else 400, detail, error.code)
        case Cancelled() | CancelledError():
            return Refusal(409, "cancelled", "cancelled")
        case SegkitError():
            return Refusal(501, str(error), "not_installed")
        case torch.OutOfMemoryError() | MemoryError():
            return busy("not enough memory for this request now; others are not affected", 30)
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f"{one.filename.rpartition('segkit')[2]}:{one.lineno}" for one in place)
    log.error("unexpected %s at %s", type(error).__name__, where)
    return Refusal(500, "internal error; the log of the server says where", "internal")
