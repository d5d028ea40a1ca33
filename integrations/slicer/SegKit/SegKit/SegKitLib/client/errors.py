"""What can go wrong between a client and its server, as types."""

from typing import Any


class ServerError(Exception):
    """A request that the server refused; `status` is the HTTP status, `code` a fixed word."""

    def __init__(self, detail: str, *, status: int = 0, code: str = "", retry_s: float = 0) -> None:
        super().__init__(detail)
        self.detail, self.status, self.code, self.retry_s = detail, status, code, retry_s


class RequestError(ServerError, ValueError):
    """The request cannot be answered as it is: a prompt, a shape, a name (400, 404, 409, 413)."""


class AuthError(ServerError):
    """The token is missing or wrong, or the address is not allowed (401, 403, 421)."""


class GoneError(ServerError):
    """The server no longer has this session (410); open the image again."""


class BusyError(ServerError):
    """No place or memory is free now (503); try again after `retry_s` seconds."""


class VersionError(ServerError):
    """Client and server speak different versions of the protocol, or it is no segkit server."""


class UnreachableError(ServerError, ConnectionError):
    """Nothing answers at the address."""


def from_answer(status: int, body: Any, retry_s: float = 0) -> ServerError:
    """Typed error for a refusing answer."""
    about = body if isinstance(body, dict) else {}
    detail = str(about.get("detail", f"the server answered {status}"))
    code = str(about.get("code", ""))
    kinds: dict[int, type[ServerError]] = {
        401: AuthError, 403: AuthError, 421: AuthError, 410: GoneError, 503: BusyError,
    }  # fmt: skip
    if code == "protocol_mismatch":
        return VersionError(detail, status=status, code=code)
    kind = kinds.get(status, RequestError if 400 <= status < 500 else ServerError)
    return kind(detail, status=status, code=code, retry_s=retry_s)
