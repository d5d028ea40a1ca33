"""What one client does is nothing to another: ids, crowds, memory, models that change."""

import gzip
import hmac
import json
import resource
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import nibabel
import numpy as np
import pytest
import torch
from serving import SPACING_MM, TOKEN, ask, body_volume, threaded, tiny_engine

from segkit.cli.main import main
from segkit.client import BusyError, RemotePredictor
from segkit.client.codec import CONTENT_TYPE, encode
from segkit.predictors.slices import EncodedSlices
from segkit.serve.faults import Refusal
from segkit.serve.guard import Guard
from segkit.serve.images import About, from_array
from segkit.serve.settings import Limits, Settings
from segkit.serve.workspace import Workspace

CLICK = [(6, 20, 24)]


def new_lease(url: str) -> str:
    return str(json.loads(ask(url, "POST", "/segkit/v1/leases")[2])["lease"])


def frames() -> bytes:
    return b"".join(encode(np.zeros((3, 32, 40), np.uint8)))


def test_every_kind_of_id_of_another_client_is_unknown_s03(plain: str) -> None:
    mine, other = new_lease(plain), new_lease(plain)
    about = {"X_Lease_Token": mine}
    sent, v1 = b"".join(encode(body_volume())), "/segkit/v1"

    def made(path: str, body: bytes, **more: str) -> str:
        return str(json.loads(ask(plain, "POST", v1 + path, body, **about, **more)[2])["id"])

    image = made("/volumes", sent, Content_Type=CONTENT_TYPE, X_Meta="{}")
    clip = made("/clips", frames(), Content_Type=CONTENT_TYPE, X_Meta="{}")
    session = made("/sessions", json.dumps({"image": image, "model": "tiny"}).encode())
    job = made("/jobs", json.dumps({"image": image, "model": "organs"}).encode())
    kinds = [
        ("GET", "/volumes/{}", image), ("GET", "/volumes/{}/slice", image),
        ("GET", "/volumes/{}/voxels?box=0:1,0:1,0:1", image), ("DELETE", "/volumes/{}", image),
        ("GET", "/sessions/{}/mask", session), ("POST", "/sessions/{}/undo", session),
        ("GET", "/sessions/{}/measurements", session), ("DELETE", "/sessions/{}", session),
        ("GET", "/jobs/{}", job), ("GET", "/jobs/{}/labels", job), ("DELETE", "/jobs/{}", job),
        ("DELETE", "/clips/{}", clip),
    ]  # fmt: skip
    for method, path, name in kinds:
        found = {
            ask(plain, method, v1 + path.format(one), X_Lease_Token=other)[::2]
            for one in (name, "0" * len(name))
        }
        assert len(found) == 1, path
        assert found.pop()[0] == 404, path
    assert ask(plain, "GET", f"{v1}/sessions/{session}/mask", **about)[0] == 200, "still there"


def test_ids_of_others_cannot_be_told_by_time_s03() -> None:
    engine = tiny_engine()
    one, two = engine.claim().workspace, engine.claim().workspace
    about = About(spacing_mm=SPACING_MM)
    sent = bytearray(b"".join(encode(body_volume())))
    mine = [one.add_image(from_array(sent, about, max_bytes=2**24)) for _ in range(4)]
    times: dict[bool, list[float]] = {True: [], False: []}

    def ask_for(name: str, is_there: bool) -> None:
        start = time.perf_counter()
        with pytest.raises(Refusal, match="no such image"):
            two.image(name)
        times[is_there].append(time.perf_counter() - start)

    for number in range(2000):
        ask_for(mine[number % 4], is_there=True)
        ask_for(f"{number:032x}", is_there=False)
    theirs, nobodys = (statistics.median(times[one]) for one in (True, False))
    assert abs(theirs - nobodys) < 0.15 * max(theirs, nobodys)
    engine.close()


def test_the_token_is_compared_as_digests_s02_s18(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: compared.append(two) or compare(*two))  # type: ignore[func-returns-value]
    guard = Guard(None, Settings(token=TOKEN))  # type: ignore[arg-type]
    for given in (TOKEN, TOKEN[:-1], "x", ""):
        headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {given}".encode())]
        scope = {"path": "/claim", "scheme": "http", "headers": headers}
        if given == TOKEN:
            guard._check(scope)
            continue
        with pytest.raises(Refusal, match="a token is needed"):
            guard._check(scope)
    assert [len(one) for pair in compared for one in pair] == [32] * 8


def bomb(shape: tuple[int, int, int], zeros: int) -> bytes:
    """A NIfTI file whose header announces `shape`, with so many bytes of nothing behind it."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), 1)
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"] = b"n+1", 352
    head = header.structarr.tobytes() + bytes(4)
    return gzip.compress(head + bytes(zeros), mtime=0)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bomb((20_000, 20_000, 1500), 2**20), "compressed bytes cannot hold"),
        (bomb((64, 64, 64), 2**27), "behind the voxels"),
        (bomb((400, 400, 300), 2 * 400 * 400 * 300), "the limit is"),
    ],
)
def test_files_that_inflate_are_refused_by_every_way_in_s10(data: bytes, says: str) -> None:
    with threaded(tiny_engine(limits=Limits(array=2**26))) as url:
        about = {"Content_Type": "application/x-segkit-file", "X_Lease_Token": new_lease(url)}
        meta = json.dumps({"suffix": ".nii.gz"})
        status, _, body = ask(url, "POST", "/segkit/v1/volumes", data, X_Meta=meta, **about)
        assert (status, json.loads(body)["code"]) == (413, "too_large")
        assert says in json.loads(body)["detail"]
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as web:
            for path, field in (("/session/", "files"), ("/datastore/?image=x", "file")):
                sent = web.put(path, files={field: ("scan.nii.gz", data)})
                assert sent.status_code == 413, path


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """Room for so many open files in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"this system allows {hard} open files, {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_idle_connections_cost_little_s12() -> None:
    with many_files(2500), threaded(tiny_engine()) as url:
        where = (urlsplit(url).hostname, urlsplit(url).port)
        before = resident_mib()
        plugs = [socket.create_connection(where, 10) for _ in range(1000)]
        try:
            start = time.monotonic()
            assert ask(url, "GET", "/segkit/v1/models")[0] == 200
            assert time.monotonic() - start < 5
            # both ends live in this process
            assert resident_mib() - before < 64
        finally:
            for plug in plugs:
                plug.close()


def resident_mib() -> float:
    """Memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def test_one_client_out_of_memory_leaves_the_others_s21(monkeypatch: pytest.MonkeyPatch) -> None:
    render = Workspace.render
    with threaded(tiny_engine()) as url, RemotePredictor(url) as a, RemotePredictor(url) as b:
        mine, other = (one.open(body_volume(), spacing_mm=SPACING_MM) for one in (a, b))
        before = other.add_points(CLICK, [1]).mask().copy()

        def fail(space: Workspace, *rest: object) -> object:
            if mine.id in space.objects:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return render(space, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(Workspace, "render", fail)
        with pytest.raises(BusyError, match="not enough memory") as refused:
            mine.add_points(CLICK, [1])
        assert refused.value.retry_s == 30
        np.testing.assert_array_equal(other.undo().add_points(CLICK, [1]).mask(), before)
        monkeypatch.undo()
        assert mine.add_points(CLICK, [1]).mask().any() == before.any(), "and it goes on"


def test_a_request_under_way_finishes_on_the_model_it_began_with_s20(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = tiny_engine()
    with threaded(engine) as url, RemotePredictor(url) as remote:
        image = remote.upload(body_volume(), spacing_mm=SPACING_MM)
        teacher = remote.open(image)
        before = teacher.add_points(CLICK, [1]).mask().copy()
        assert before.any()
        teacher.accept(body_volume() > 500)
        remote.learn("tiny", seconds=0.5)
        remote.choose("tiny", 0)
        began, goes_on = threading.Event(), threading.Event()
        encode_slice = EncodedSlices.encode

        def slow(*args: object) -> object:
            began.set()
            assert goes_on.wait(20)
            return encode_slice(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(EncodedSlices, "encode", slow)
        fresh = remote.upload(body_volume(), spacing_mm=SPACING_MM)
        running = remote.open(fresh, model="tiny")
        thread = threading.Thread(target=running.add_points, args=(CLICK, [1]))
        thread.start()
        assert began.wait(20)
        with RemotePredictor(url) as admin:
            swap = threading.Thread(target=admin.choose, args=("tiny", 1))
            swap.start()
            swap.join(0.3)  # it may wait for its turn, or not
            goes_on.set()
            swap.join(30)
            assert admin.models()[0]["version"] == 1
        thread.join(30)
        np.testing.assert_array_equal(running.fetch(), before)
        newer = remote.open(image, model="tiny").add_points(CLICK, [1])
        assert (newer.mask() != before).any()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_command_does_not_start_without_a_token_s23(
    host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGKIT_TOKEN", raising=False)
    assert main(["serve", "-m", "nano", "--host", host, "--port", "0"]) == 1
    said = capsys.readouterr()
    assert "there is no token" in said.err
    assert not said.out, "no ready line"
