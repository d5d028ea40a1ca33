"""Addresses, versions, proxies, and a server that is away for a moment."""

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from segkit.client import AuthError, GoneError, RequestError, UnreachableError, VersionError
from segkit.client.errors import BusyError, ServerError, from_answer
from segkit.client.geometry import (
    affine_from_spacing,
    index_to_ras,
    lps_affine_to_ras,
    ras_to_index,
)
from segkit.client.predictor import check_version
from segkit.client.transport import Transport
from segkit.geometry import Geometry


@contextmanager
def answering(body: object, status: int = 200, port: int = 0) -> Iterator[int]:
    """A web server that says one thing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix"),
    [
        ("http://127.0.0.1:1527", "127.0.0.1", 1527, ""),
        ("127.0.0.1:1527", "127.0.0.1", 1527, ""),
        ("https://seg.example/proxy/", "seg.example", None, "/proxy"),
        ("localhost", "localhost", None, ""),
    ],
)
def test_addresses(url: str, host: str, port: int | None, prefix: str) -> None:
    transport = Transport(url)
    assert (transport.host, transport.port, transport.prefix) == (host, port, prefix)


@pytest.mark.parametrize("url", ["ftp://x", "http://", ""])
def test_wrong_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must look like"):
        Transport(url)


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match="is the server running"):
        Transport("127.0.0.1:9", patience_s=0.2).request("GET", "/")


@pytest.mark.parametrize("body", [b"<html>", {"hello": 1}, [1]])
def test_something_else_answers_s28(body: object) -> None:
    with answering(body) as port:
        transport = Transport(f"127.0.0.1:{port}", patience_s=0.2)
        with pytest.raises(VersionError, match="something else"):
            check_version(transport)
        transport.close()


def test_another_version_names_both_s28() -> None:
    with answering({"protocol": 9, "version": "7.1"}) as port:
        transport = Transport(f"127.0.0.1:{port}")
        with pytest.raises(VersionError, match=r"segkit 7\.1.*protocol 9.*protocol 1"):
            check_version(transport)
        transport.close()


def test_proxy_variables_are_not_asked_s29(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://0.0.0.1:1")
    with answering({"protocol": 1}) as port:
        transport = Transport(f"127.0.0.1:{port}")
        check_version(transport)
        transport.close()


def test_a_server_that_comes_back_is_waited_for() -> None:
    with answering({}) as port:
        pass
    found: list[object] = []
    transport = Transport(f"127.0.0.1:{port}", patience_s=10)
    thread = threading.Thread(target=lambda: found.append(transport.request("GET", "/").json()))
    thread.start()
    time.sleep(0.3)
    assert not found
    with answering({"back": True}, port=port):
        thread.join(10)
        transport.close()
    assert found == [{"back": True}]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestError), (404, RequestError), (413, RequestError), (401, AuthError),
        (403, AuthError), (421, AuthError), (410, GoneError), (503, BusyError), (500, ServerError),
    ],
)  # fmt: skip
def test_refusals_have_types(status: int, kind: type[ServerError]) -> None:
    error = from_answer(status, {"detail": "why", "code": "word"}, 7.0)
    assert type(error) is kind
    assert (str(error), error.code, error.status, error.retry_s) == ("why", "word", status, 7.0)
    assert "answered" in str(from_answer(status, None))


def test_a_version_refusal_has_its_type() -> None:
    assert isinstance(from_answer(400, {"code": "protocol_mismatch"}), VersionError)


def test_geometry_agrees_with_the_package() -> None:
    affine = np.array([[0.7, -0.3, 0, -20], [0.35, 0.75, 0.1, 10], [0, 0.2, 3, 5], [0, 0, 0, 1.0]])
    geometry = Geometry((4, 5, 6), affine)
    index = np.array([[1.0, 2.0, 3.0], [0.5, 4.0, 5.0]])
    world = index_to_ras(index, affine)
    np.testing.assert_allclose(world, geometry.to_world_mm(index))
    np.testing.assert_allclose(ras_to_index(world, affine), index)
    np.testing.assert_allclose(
        affine_from_spacing((3, 2, 1)), Geometry.from_spacing((1, 1, 1), (3, 2, 1)).affine
    )
    np.testing.assert_allclose(lps_affine_to_ras(np.diag([-1.0, -1, 1, 1])), np.eye(4))


def test_the_client_needs_numpy_only() -> None:
    script = (
        "import sys; import segkit.client; "
        "print(sorted(m.partition('.')[0] for m in sys.modules if m.partition('.')[0] in "
        "('torch','scipy','blosc2','httpx','jaxtyping','pydantic','nibabel','requests')))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr
