"""What stands before every request: host, origin, token, size and pace."""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from segkit.serve.faults import Refusal, bad
from segkit.serve.settings import LOOPBACK_NAMES, Limits, Settings, is_loopback

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset(
    {"/", "/page.js", "/page.css", "/healthz", "/segkit/v1/health", "/auth/", "/auth/token"}
)
"""What a client may ask without the token; none of it tells or changes anything of a client."""

UPLOAD_PATHS = (
    "/set_image", "/add_", "/datastore/", "/session/", "/infer/", "/segkit/v1/volumes",
    "/segkit/v1/clips", "/segkit/v1/sessions/",
)  # fmt: skip
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CLOSE = {"Connection": "close"}
SAFE_HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """ASGI layer that refuses a request before any of it is acted on.

    A body is bounded by its declared length before it is read and counted while it is read. Errors
    and the log line of a request (method, status, time) carry nothing that a client sent.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self._token = _digest(settings.token) if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of any kind; only HTTP is served."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = _Answer(send, self._cors(scope))
        start = time.perf_counter()
        try:
            if not await self._is_preflight(scope, answer):
                self._check(scope)
                limit = body_limit(scope["path"], self.settings.limits)
                _check_length(scope, limit)
                watched = _Body(receive, limit, self.settings.limits)
                await self.app(scope, watched, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        finally:
            spent = (time.perf_counter() - start) * 1e3
            log.debug("%s %s %.0f ms", scope["method"], answer.status, spent)

    def _check(self, scope: Scope) -> None:
        host = _host(scope)
        if not self._knows(host):
            raise Refusal(421, "this server does not answer to that host name", "wrong_host")
        origin = _header(scope, b"origin")
        if origin is not None and not self._is_allowed_origin(origin, scope):
            raise Refusal(403, "requests from other web pages are not allowed", "cross_origin")
        if origin is None and _header(scope, b"sec-fetch-site") == "cross-site":
            raise Refusal(403, "requests from other web pages are not allowed", "cross_origin")
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, given = (_header(scope, b"authorization") or "").partition(" ")
            # digests of equal length: the comparison tells nothing about the token
            is_right = hmac.compare_digest(_digest(given.strip()), self._token)
            if scheme.lower() != "bearer" or not is_right:
                raise Refusal(
                    401, "a token is needed", "unauthorized", {"WWW-Authenticate": "Bearer"}
                )
        if ".." in scope["path"].split("/") or "\x00" in scope["path"] or "\\" in scope["path"]:
            raise bad("the path is not allowed", "bad_path")

    def _knows(self, host: str | None) -> bool:
        if host is None:
            return False
        names = {self.settings.host, *self.settings.allow_hosts}
        if host in names:
            return True
        if self.settings.is_loopback:
            return host in LOOPBACK_NAMES
        # a name can be pointed at this machine by a stranger's DNS, an address cannot
        return host == "localhost" or _is_address(host)

    def _is_allowed_origin(self, origin: str, scope: Scope) -> bool:
        own = f"{scope.get('scheme', 'http')}://{_header(scope, b'host') or ''}"
        return origin in (own, *self.settings.allow_origins)

    def _cors(self, scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
        origin = _header(scope, b"origin") if scope["type"] == "http" else None
        if origin is None or origin not in self.settings.allow_origins:
            return ()
        return (
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-expose-headers", b"X-Meta, Content-Disposition"),
            (b"vary", b"Origin"),
        )

    async def _is_preflight(self, scope: Scope, answer: "_Answer") -> bool:
        if scope["method"] != "OPTIONS" or not answer.extra:
            return False
        await answer.plain(
            204,
            (
                (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
                (
                    b"access-control-allow-headers",
                    b"Authorization, Content-Type, X-Meta, X-Lease-Token",
                ),
            ),
        )
        return True


class _Answer:
    """Sends with the headers that every answer has."""

    def __init__(self, send: Send, extra: tuple[tuple[bytes, bytes], ...]) -> None:
        self._send, self.extra, self.status = send, extra, 0

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name for name, _ in message.get("headers", ())}
            more = [pair for pair in (*SAFE_HEADERS, *self.extra) if pair[0] not in own]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error, unless an answer has begun; then the connection breaks."""
        if self.status:
            raise ConnectionAbortedError("refused after the answer had begun")
        body = error_body(refusal)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *((name.lower().encode(), value.encode()) for name, value in refusal.headers.items()),
        ]
        await self({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})

    async def plain(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Answer without a body."""
        await self({"type": "http.response.start", "status": status, "headers": list(headers)})
        await self({"type": "http.response.body", "body": b""})


class _Body:
    """`receive` that counts bytes and watches the clock."""

    def __init__(self, receive: Receive, limit: int, limits: Limits) -> None:
        self._receive, self._limit, self._limits = receive, limit, limits
        self._bytes, self._start, self._is_done = 0, time.monotonic(), False

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._is_done:
            return await self._receive()  # only waits for the client to hang up
        allowed = self._limits.header_s + self._bytes / self._limits.bytes_per_s
        try:
            left = self._start + allowed - time.monotonic()
            async with asyncio.timeout(max(left, 0.01)):
                message = await self._receive()
        except TimeoutError as error:
            raise Refusal(408, "the body came too slowly", "too_slow", CLOSE) from error
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._is_done = not message.get("more_body", False)
            if self._bytes > self._limit:
                text = f"the body exceeds {self._limit} bytes"
                raise Refusal(413, text, "too_large", CLOSE)
        return message


def error_body(refusal: Refusal) -> bytes:
    """JSON of an error: `detail` for people, `code` for programs."""
    return json.dumps({"detail": refusal.detail, "code": refusal.code}).encode()


def body_limit(path: str, limits: Limits) -> int:
    """Largest body for a path: that of an upload, or that of a JSON object."""
    return limits.body if path.startswith(UPLOAD_PATHS) else limits.json


def _check_length(scope: Scope, limit: int) -> None:
    length = _header(scope, b"content-length")
    if scope["method"] in ("GET", "HEAD", "DELETE") or length is None:
        return
    if not length.isdecimal():
        raise bad("Content-Length is no number", "bad_length")
    if int(length) > limit:
        raise Refusal(413, f"the body has {length} bytes, at most {limit} are allowed", "too_large")


def _host(scope: Scope) -> str | None:
    """Host of the request without its port."""
    value = _header(scope, b"host")
    if value is None or sum(name == b"host" for name, _ in scope["headers"]) != 1:
        return None
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return is_loopback(host)
    return True


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="surrogatepass")).digest()
