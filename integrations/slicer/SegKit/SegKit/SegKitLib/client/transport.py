"""One HTTP connection to a server, with the standard library; proxies are never asked."""

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .errors import ServerError, UnreachableError, from_answer

META, LEASE, PROTOCOL_HEADER = "X-Meta", "X-Lease-Token", "X-Segkit-Protocol"
PROTOCOL = 1
Body = bytes | Sequence[bytes | memoryview] | None
_STALE = (
    http.client.RemoteDisconnected,
    ConnectionResetError,
    BrokenPipeError,
    ConnectionAbortedError,
)


@dataclass(frozen=True)
class Answer:
    """What came back: `meta` are the facts beside a binary body."""

    body: bytes
    meta: dict[str, Any]

    def json(self) -> dict[str, Any]:
        """Body as an object."""
        value: dict[str, Any] = json.loads(self.body or b"{}")
        return value


class Transport:
    """Requests to one address, one at a time; safe to use from several threads.

    A request that meets a server that is down is repeated for `patience_s` seconds, so that a
    restart of the server shows as a pause.

    Raises:
        ValueError: The address is no http or https URL.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        timeout_s: float = 120.0,
        connect_timeout_s: float = 10.0,
        patience_s: float = 15.0,
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the address must look like http://127.0.0.1:1527, got {url!r}")
        self.host, self.port, self.prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self.is_secure = parts.scheme == "https"
        self.lease = ""
        self._token, self._timeout_s = token, timeout_s
        self._connect_timeout_s, self._patience_s = connect_timeout_s, patience_s
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.RLock()

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine: then bytes are sent as they are."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    def request(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        meta: Mapping[str, Any] | None = None,
        content_type: str = "",
    ) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            ServerError: The server refused; the type says why.
            UnreachableError: Nothing answered for `patience_s`.
        """
        pieces = [body] if isinstance(body, bytes) else list(body or ())
        headers = self._headers(meta, content_type, pieces, method)
        end, pause = time.monotonic() + self._patience_s, 0.1
        with self._lock:
            while True:
                try:
                    return self._send(method, path, pieces, headers)
                except (OSError, http.client.HTTPException) as error:
                    self.close()
                    if isinstance(error, TimeoutError | ssl.SSLError) or time.monotonic() > end:
                        raise UnreachableError(
                            f"no answer from {self.host}:{self.port} "
                            f"({type(error).__name__}); is the server running?"
                        ) from error
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def post(self, path: str, value: Mapping[str, Any] | None = None) -> Answer:
        """POST a JSON object."""
        return self.request("POST", path, json.dumps(dict(value or {})).encode())

    def close(self) -> None:
        """Hang up; the next request connects again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _headers(
        self, meta: Mapping[str, Any] | None, content_type: str, pieces: list[Any], method: str
    ) -> dict[str, str]:
        headers = {PROTOCOL_HEADER: str(PROTOCOL)}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self.lease:
            headers[LEASE] = self.lease
        if meta is not None:
            headers[META] = json.dumps(meta, separators=(",", ":"))
        if method in ("POST", "PUT"):
            headers["Content-Type"] = content_type or "application/json"
            headers["Content-Length"] = str(sum(map(len, pieces)))
        return headers

    def _send(
        self, method: str, path: str, pieces: list[Any], headers: Mapping[str, str]
    ) -> Answer:
        is_fresh = self._connection is None
        connection = self._connect()
        try:
            answer = self._exchange(connection, method, path, pieces, headers)
        except _STALE:
            if is_fresh:
                raise
            # the server closed a connection that had been idle: this is no failure
            self.close()
            answer = self._exchange(self._connect(), method, path, pieces, headers)
        body = answer.read()
        if answer.will_close:
            self.close()
        if answer.status >= 300:
            raise _refusal(answer.status, body, answer.headers.get("Retry-After", "0"))
        return Answer(body, json.loads(answer.headers.get(META, "{}")))

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        pieces: list[Any],
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        connection.putrequest(method, self.prefix + path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        try:
            for piece in pieces:
                connection.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            # the server may have refused before the end; its answer says why
            return connection.getresponse()
        return connection.getresponse()

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self.is_secure else http.client.HTTPConnection
            connection = kind(self.host, self.port, timeout=self._connect_timeout_s)
            connection.connect()
            connection.sock.settimeout(self._timeout_s)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection = connection
        return self._connection


def _refusal(status: int, body: bytes, retry: str) -> ServerError:
    try:
        about = json.loads(body)
    except ValueError:
        about = None
    return from_answer(status, about, float(retry) if retry.isdecimal() else 0.0)
