"""What is refused before anything is acted on; names hold the ids of the fault catalogue."""

import json
import socket
import statistics
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import TOKEN, ask, body_volume, threaded, tiny_engine

from segkit.client.codec import CONTENT_TYPE, encode
from segkit.errors import InputError
from segkit.serve.guard import CSP, Guard, body_limit
from segkit.serve.settings import Limits, Settings, read_token

BEARER = f"Bearer {TOKEN}"
STATE = [
    ("GET", "/capabilities"), ("POST", "/claim"), ("POST", "/set_image"), ("POST", "/undo"),
    ("GET", "/lease_status"), ("POST", "/add_point_interaction"), ("GET", "/info/"),
    ("PUT", "/session/"), ("PUT", "/datastore/"), ("POST", "/infer/tiny"), ("GET", "/train/"),
    ("GET", "/auth/token/valid"), ("GET", "/segkit/v1/models"), ("POST", "/segkit/v1/leases"),
    ("POST", "/segkit/v1/volumes"), ("POST", "/segkit/v1/jobs"), ("GET", "/segkit/v1/jobs/x"),
    ("GET", "/segkit/v1/sessions/x/mask"), ("POST", "/segkit/v1/models/tiny/learn"),
    ("GET", "/nothing/here"), ("GET", "//"), ("GET", "/segkit/v1/health/"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), STATE)
@pytest.mark.parametrize("given", [None, "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN])
def test_every_state_endpoint_needs_the_token_s01_s02(
    guarded: str, method: str, path: str, given: str | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    status, _, body = ask(guarded, method, path, **headers)
    assert status == 401
    assert json.loads(body) == {"detail": "a token is needed", "code": "unauthorized"}


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/healthz", "/segkit/v1/health"])
def test_what_is_open_tells_nothing(guarded: str, path: str) -> None:
    status, headers, body = ask(guarded, "GET", path)
    assert status == 200
    assert headers["content-security-policy"] == CSP
    assert b"lease" not in body or path == "/page.js"


def test_an_unknown_lease_and_id_look_alike_s03(plain: str) -> None:
    mine, other = (json.loads(ask(plain, "POST", "/segkit/v1/leases")[2])["lease"] for _ in "ab")
    sent = b"".join(encode(body_volume()))
    about = {"X_Lease_Token": mine, "Content_Type": CONTENT_TYPE, "X_Meta": "{}"}
    image = json.loads(ask(plain, "POST", "/segkit/v1/volumes", sent, **about)[2])["id"]
    answers = {
        ask(plain, "GET", f"/segkit/v1/volumes/{name}", X_Lease_Token=other)[::2]
        for name in (image, "0" * 32)
    }
    assert len(answers) == 1
    assert answers.pop()[0] == 404
    assert ask(plain, "GET", f"/segkit/v1/volumes/{image}", X_Lease_Token=mine)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:80", "127.0.0.1.evil.com", "169.254.1.1", "", "localhost.evil"]
)
def test_other_host_names_are_refused_s04(plain: str, host: str) -> None:
    status, _, body = ask(plain, "GET", "/segkit/v1/models", Host=host)
    assert (status, json.loads(body)["code"]) == (421, "wrong_host")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:99", "[::1]:1527", "LOCALHOST"])
def test_own_host_names_are_known(plain: str, host: str) -> None:
    assert ask(plain, "GET", "/segkit/v1/models", Host=host)[0] == 200


def test_off_loopback_addresses_are_known_and_names_must_be_allowed() -> None:
    guard = Guard(None, Settings(host="0.0.0.0", token=TOKEN, allow_hosts=("seg.example",)))  # type: ignore[arg-type]
    assert [guard._knows(one) for one in ("10.0.0.7", "seg.example", "evil.com", None)] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("origin", ["http://evil.com", "null", "https://127.0.0.1", "file://"])
def test_other_web_pages_are_refused_s05(plain: str, origin: str) -> None:
    status, headers, _ = ask(plain, "POST", "/segkit/v1/leases", Origin=origin)
    assert status == 403
    assert "access-control-allow-origin" not in headers


def test_the_own_page_may_ask_s05(plain: str) -> None:
    assert ask(plain, "POST", "/segkit/v1/leases", Origin=plain)[0] == 200
    assert ask(plain, "POST", "/claim", Sec_Fetch_Site="cross-site")[0] == 403


def test_cors_is_for_named_origins_only_s24() -> None:
    with pytest.raises(InputError, match="would let any web page in"):
        Settings(allow_origins=("*",))
    friend = "https://viewer.example"
    with threaded(tiny_engine(allow_origins=(friend,))) as url:
        status, headers, _ = ask(url, "OPTIONS", "/segkit/v1/models", Origin=friend)
        assert (status, headers["access-control-allow-origin"]) == (204, friend)
        assert "access-control-allow-credentials" not in headers
        assert ask(url, "GET", "/segkit/v1/models", Origin=friend)[0] == 200
        assert ask(url, "OPTIONS", "/segkit/v1/models", Origin="http://evil.com")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/segkit/v1/volumes/..%2f..%2fetc%2fpasswd", "/segkit/v1/volumes/%2e%2e", "/../etc/passwd",
        "/segkit/v1/volumes/x%00y", "/segkit/v1/volumes/..%5c..", "/page/../page.js",
        "/segkit/v1/volumes/%5c%5chost%5cshare",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_s06(plain: str, path: str) -> None:
    status, _, body = ask(plain, "GET", path)
    assert status in (400, 404, 410)
    assert b"root:" not in body


def raw(url: str, data: bytes, seconds: float = 10.0) -> bytes:
    """Send bytes as they are; give what comes back until the server hangs up."""
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), seconds) as plug:
        plug.sendall(data)
        found = b""
        try:
            while part := plug.recv(65536):
                found += part
        except TimeoutError:
            found += b"<still open>"
        return found


def test_a_declared_body_over_the_cap_is_not_read_s07(plain: str) -> None:
    start = time.monotonic()
    head = b"POST /set_image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
    assert raw(plain, head).startswith(b"HTTP/1.1 413")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("length", ["-1", "1e9", "abc", "5, 6"])
def test_lengths_that_are_no_numbers_s08(plain: str, length: str) -> None:
    head = f"POST /claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    assert raw(plain, head.encode()).startswith(b"HTTP/1.1 400")


def test_wrong_lengths_leave_nothing_behind_s08() -> None:
    engine = tiny_engine(limits=Limits(header_s=0.5, bytes_per_s=10**9))
    with threaded(engine) as url:
        before = engine.leases
        short = (
            b"POST /segkit/v1/leases HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{}"
        )
        lease = engine.claim()
        slow = short.replace(b"Host", b"X-Lease-Token: " + lease.token.encode() + b"\r\nHost")
        slow = slow.replace(b"/leases", b"/volumes")
        assert b" 408 " in raw(url, slow)
        long = b"POST /claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}rest\r\n\r\n"
        assert b"400 Bad Request" in raw(url, long)
        assert not lease.workspace.images
        assert engine.leases <= before + 3


def test_an_endless_chunked_body_stops_at_the_cap_s09() -> None:
    with threaded(tiny_engine(limits=Limits(json=1000))) as url:
        head = b"POST /heartbeat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"400\r\n" + b"x" * 0x400 + b"\r\n"
        lease = json.loads(ask(url, "POST", "/claim")[2])["lease_token"]
        head = head.replace(b"/heartbeat", b"/segkit/v1/sessions") .replace(
            b"Host", f"X-Lease-Token: {lease}\r\nHost".encode()
        )  # fmt: skip
        assert b" 413 " in raw(url, head + 3 * chunk)


def test_slow_headers_and_bodies_are_hung_up_on_s11() -> None:
    with threaded(tiny_engine(limits=Limits(header_s=0.3, bytes_per_s=10**6))) as url:
        assert raw(url, b"GET / HTTP/1.1\r\nHost: loc", 5) == b""
        assert raw(url, b"", 5) == b""
        lease = json.loads(ask(url, "POST", "/claim")[2])["lease_token"]
        head = (
            f"POST /set_image HTTP/1.1\r\nHost: localhost\r\nX-Lease-Token: {lease}\r\n"
            "Content-Length: 1000\r\n\r\nsome"
        )
        assert raw(url, head.encode(), 5).startswith(b"HTTP/1.1 408")


def test_idle_connections_do_not_shut_others_out_s12() -> None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000, (soft - 200) // 2)
    with threaded(tiny_engine()) as url:
        where = (urlsplit(url).hostname, urlsplit(url).port)
        plugs = [socket.create_connection(where, 10) for _ in range(count)]
        try:
            start = time.monotonic()
            assert ask(url, "GET", "/segkit/v1/health")[0] == 200
            assert time.monotonic() - start < 5
        finally:
            for plug in plugs:
                plug.close()


def test_the_token_cannot_be_timed_s18() -> None:
    guard = Guard(None, Settings(token=TOKEN))  # type: ignore[arg-type]

    def seconds(token: str) -> float:
        scope = {
            "path": "/claim", "scheme": "http",
            "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {token}".encode())],
        }  # fmt: skip
        start = time.perf_counter()
        try:
            guard._check(scope)
        except Exception as error:
            assert "token" in str(error)  # noqa: PT017
        return time.perf_counter() - start

    wrong = ["x" * 32, TOKEN[:-1] + "x"]  # differs at once, and at the last character
    times: dict[str, list[float]] = {one: [] for one in wrong}
    for _ in range(5000):
        for one in wrong:
            times[one].append(seconds(one))
    early, late = (statistics.median(times[one]) for one in wrong)
    assert abs(early - late) < 0.15 * max(early, late)


def test_off_loopback_a_token_is_a_must_s23(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(InputError, match="there is no token"):
            Settings(host=host)
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert Settings(host=host).is_loopback
    with pytest.raises(InputError, match="at least 16"):
        Settings(token="short")
    path = tmp_path / "token"
    with pytest.raises(InputError, match="cannot be read"):
        read_token(path)
    path.write_text(TOKEN)
    path.chmod(0o644)
    with pytest.raises(InputError, match="others can read it"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == TOKEN
    path.write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_token(path)


def test_a_token_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_TOKEN", f" {TOKEN}\n")
    assert read_token(None) == TOKEN


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"{", "bad_json", "not valid JSON"),
        (b"\xff\xfe", "bad_json", "not valid JSON"),
        (b"[" * 100_000, "bad_json", "not valid JSON"),
        (b'{"prompt": {}, "prompt": {}}', "bad_json", "not valid JSON"),
        (b'{"prompt": {"kind": "box", "box": [[NaN, 2]]}}', "bad_json", "not valid JSON"),
        (b'{"prompt": {"kind": "box", "box": [[0, Infinity]]}}', "bad_json", "not valid JSON"),
        (b'{"prompt": {"kind": "box", "box": [[0, 1e999], [0, 1]]}}', "bad_field", "finite"),
        (b"[]", "bad_field", "the body"),
        (b'{"prompt": 5}', "bad_field", "prompt"),
        (b'{"prompt": {}, "surplus": 1}', "bad_field", "Extra inputs"),
        (b'{"prompt": {"kind": "spell"}}', "bad_field", "kind"),
    ],
)
def test_malformed_json_is_400_s27(plain: str, body: bytes, code: str, says: str) -> None:
    """On a session that exists: the same request in good JSON is answered with 200."""
    lease = json.loads(ask(plain, "POST", "/claim")[2])["lease_token"]
    about = {"X_Lease_Token": lease}
    sent = b"".join(encode(body_volume()))
    image = json.loads(ask(plain, "POST", "/segkit/v1/volumes", sent, **about)[2])["id"]
    wish = json.dumps({"image": image}).encode()
    session = json.loads(ask(plain, "POST", "/segkit/v1/sessions", wish, **about)[2])["id"]
    path = f"/segkit/v1/sessions/{session}/prompts"
    good = b'{"prompt": {"kind": "points", "points": [[1, 2, 3]], "labels": [1]}, "run": false}'
    status, _, said = ask(plain, "POST", path, body, **about)
    after = ask(plain, "POST", path, good, **about)[0]
    ask(plain, "POST", "/release", **about)
    assert (status, json.loads(said)["code"], after) == (400, code, 200)
    assert says in json.loads(said)["detail"]


def test_limits_follow_what_a_path_needs() -> None:
    limits = Limits()
    assert body_limit("/set_image", limits) == limits.body
    assert body_limit("/claim", limits) == limits.json


def test_many_refusals_at_once_do_not_stop_the_server(plain: str) -> None:
    def abuse() -> None:
        for _ in range(20):
            ask(plain, "POST", "/set_image", b"garbage", X_Lease_Token="x")

    threads = [threading.Thread(target=abuse) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert ask(plain, "GET", "/healthz")[0] == 200
