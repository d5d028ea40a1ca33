"""Our own client against servers: the same masks as the local session, leaks, learning, privacy."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from serving import SHAPE, SPACING_MM, Running, ask, body_volume, threaded, tiny_engine

from segkit.client import AuthError, GoneError, RemotePredictor, RequestError
from segkit.client.codec import decode
from segkit.geometry import Geometry
from segkit.models import build
from segkit.predictors import VolumePredictor
from segkit.predictors.slices import EncodedSlices
from segkit.serve.engine import Engine

CLICK = [(6, 20, 24)]


@pytest.fixture
def remote(plain: str) -> Iterator[RemotePredictor]:
    with RemotePredictor(plain) as predictor:
        yield predictor


def test_masks_are_those_of_the_local_session(remote: RemotePredictor) -> None:
    volume = body_volume()
    local = VolumePredictor(build.sam_tiny(), device="cpu").open(
        (volume, Geometry.from_spacing(SHAPE, SPACING_MM))
    )
    session = remote.open(volume, spacing_mm=SPACING_MM, model="tiny")
    drawn = np.zeros(SHAPE, bool)
    drawn[4, 20, 15:30] = True
    for one in (local, session):
        one.add_points(CLICK, labels=[1])
        one.add_box(((3, 12, 14), (6, 28, 34)))
        one.add_scribble(drawn)
    np.testing.assert_array_equal(session.mask(), local.mask())
    assert session.scores().keys() == local.scores().keys()
    for action in ("undo", "undo", "redo"):
        getattr(local, action)()
        getattr(session, action)()
        np.testing.assert_array_equal(session.mask(), local.mask())
        assert session.changed_box() == local.changed_box()
    np.testing.assert_array_equal(session.fetch(), local.mask())
    assert not session.reset().mask().any()


def test_millimetres_and_files(remote: RemotePredictor, tmp_path: Path) -> None:
    affine = np.array([[0, 0.8, 0, 3], [-1.0, 0, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1]])
    path = tmp_path / "patient.nii.gz"
    nibabel.save(nibabel.Nifti1Image(body_volume().transpose(2, 1, 0), affine), path)
    by_file, by_array = remote.open(path), remote.open(body_volume(), affine=affine)
    point = (affine @ [24, 20, 6, 1])[:3]
    by_file.add_points([tuple(point)], [1], space="ras")
    by_array.add_points(CLICK, [1])
    np.testing.assert_array_equal(by_file.mask(), by_array.mask())
    saved = nibabel.load(by_file.save(tmp_path / "mask.nii.gz"))
    np.testing.assert_allclose(saved.affine, affine)
    np.testing.assert_array_equal(np.asarray(saved.dataobj).T > 0, by_file.mask())
    assert by_file.measurements()["spacing_mm"] == pytest.approx([3.0, 0.8, 1.0])


def test_pictures(remote: RemotePredictor, tmp_path: Path) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[10:30, 20:40] = 200
    session = remote.open(picture, kind="picture")
    session.add_box(((10, 20), (30, 40)))
    assert session.shape == (40, 60)
    assert session.save(tmp_path / "mask.png").stat().st_size > 50
    with pytest.raises(RequestError, match="picture"):
        session.measurements()


def test_an_automatic_job_with_progress(remote: RemotePredictor) -> None:
    seen: list[tuple[int, int]] = []
    image = remote.upload(body_volume(), spacing_mm=SPACING_MM)
    labels = remote.segment(
        image, model="organs", progress=lambda done, total: seen.append((done, total))
    )
    assert labels.shape == SHAPE
    assert labels.dtype == np.uint8
    assert seen[-1] == (12, 12)
    with pytest.raises(RequestError, match="needs prompts"):
        remote.segment(image, model="tiny")
    with pytest.raises(RequestError, match="takes no prompts"):
        remote.open(image, model="organs")


def test_refusals_are_typed(remote: RemotePredictor, plain: str, guarded: str) -> None:
    session = remote.open(body_volume(), spacing_mm=SPACING_MM)
    with pytest.raises(RequestError, match="outside the image"):
        session.add_points([(99, 0, 0)], [1])
    with pytest.raises(RequestError, match="no such model"):
        remote.open(body_volume(), model="gpt")
    with pytest.raises(RequestError, match="three axes"):
        remote.upload(np.zeros((3, 3), np.int16))
    with pytest.raises(RequestError, match="NaN"):
        remote.upload(np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(RequestError, match="singular"):
        remote.upload(body_volume(), affine=np.diag([1.0, 0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="cannot be sent"):
        remote.upload(np.array([None]))
    with pytest.raises(GoneError, match="not known"):
        RemotePredictor(plain, lease="0" * 32)
    with pytest.raises(AuthError, match="token is needed"):
        RemotePredictor(guarded, token="wrong")
    session.add_points(CLICK, [1])
    session.close()
    with pytest.raises(RequestError, match="no such session"):
        session.undo()


def test_a_client_of_another_version_is_told_both_s28(plain: str) -> None:
    status, _, body = ask(plain, "POST", "/segkit/v1/leases", X_Segkit_Protocol="9")
    assert status == 400
    assert "protocol 9" in json.loads(body)["detail"]
    assert "protocol 1" in json.loads(body)["detail"]


def test_work_goes_on_after_a_restart_s19(tmp_path: Path) -> None:
    first = tiny_engine(tmp_path / "state")
    with threaded(first) as url:
        remote = RemotePredictor(url)
        session = remote.open(body_volume(), spacing_mm=SPACING_MM).add_points(CLICK, [1])
        before = session.mask().copy()
        lease, name = remote.lease, session.id
        remote.close(keeps_work=True)
    with threaded(tiny_engine(tmp_path / "state")) as url, RemotePredictor(url, lease=lease) as two:
        about = {"id": name, "model": "", "shape": SHAPE}
        again = type(session)(two._transport, about, "")
        np.testing.assert_array_equal(again.fetch(), before)
        again.add_points([(6, 14, 16)], [0])
        again.undo()
        np.testing.assert_array_equal(again.mask(), before)


def test_cancelling_from_another_thread_s13(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = EncodedSlices.encode
    monkeypatch.setattr(
        EncodedSlices,
        "encode",
        lambda *args: time.sleep(0.02) or encode(*args),  # type: ignore[func-returns-value]
    )
    engine = tiny_engine()
    with threaded(engine) as url, RemotePredictor(url) as remote:
        session = remote.open(np.tile(body_volume(), (20, 1, 1)), spacing_mm=SPACING_MM)
        failed: list[BaseException] = []

        def long() -> None:
            try:
                session.add_box(((0, 5, 5), (240, 30, 30)))
            except RequestError as error:
                failed.append(error)

        thread = threading.Thread(target=long)
        thread.start()
        end = time.monotonic() + 10
        while not any(task.total for task in engine.worker._active) and time.monotonic() < end:
            time.sleep(0.005)
        remote.cancel()
        thread.join(10)
        assert "cancelled" in str(failed[0])
        assert not session.fetch().any()


def leak_check(url: str, clients: int, rounds: int) -> int:
    """Interleaved requests of clients whose voxels and masks name them; counts what was checked."""
    checked, errors = [0] * clients, []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        canary = 1000 * (number + 1)
        with RemotePredictor(url, model="tiny") as remote:
            volume = np.full((4, 32, 40), canary, np.int16)
            for _ in range(rounds):
                image = remote.upload(volume, spacing_mm=(1.0, 1.0, 1.0))
                path = f"/segkit/v1/volumes/{image.id}/voxels?box=1:3,2:9,0:40"
                body = remote._transport.request("GET", path).body
                if set(np.unique(decode(body, max_bytes=10**6))) != {canary}:
                    errors.append(f"client {number} got voxels of another")
                session = remote.open(image)
                mask = np.zeros(volume.shape, bool)
                mask[number % 4, number : number + 9, :] = rng.random((9, 40)) > 0.5
                session.add_mask(mask)
                if not (session.fetch() == mask).all():
                    errors.append(f"client {number} got the mask of another")
                remote.drop(image)
                checked[number] += 6

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not errors, errors[:3]
    return sum(checked)


def test_sixteen_clients_at_once_without_a_leak_s16(plain: str) -> None:
    assert leak_check(plain, clients=16, rounds=4) == 16 * 4 * 6


def test_learning_keeps_the_old_version_and_rolls_back(tmp_path: Path) -> None:
    engine: Engine = tiny_engine(tmp_path / "state")
    with threaded(engine) as url, RemotePredictor(url) as remote:
        image = remote.upload(body_volume(), spacing_mm=SPACING_MM)
        old = remote.open(image).add_points(CLICK, [1])
        before = old.mask().copy()
        with pytest.raises(RequestError, match="no segmentation was accepted"):
            remote.learn("tiny")
        old.accept(body_volume() > 500)
        outcome = remote.learn("tiny", seconds=2.0)
        assert outcome["version"] == 1
        assert outcome["steps"] > 3
        assert outcome["is_held_out"]
        assert 0 <= outcome["before"] <= 1
        first = engine.residents.find("tiny@0").segmenter
        second = engine.residents.find("tiny@1").segmenter
        assert second.backbone is first.backbone, "the frozen half is in memory once"
        about = remote.models()[0]
        assert about["versions"] == [0, 1]
        assert about["version"] == (1 if outcome["has_helped"] else 0)
        new = remote.open(image, model="tiny@1").add_points(CLICK, [1])
        assert (new.mask() != before).any()
        remote.choose("tiny", 0)
        again = remote.open(image, model="tiny").add_points(CLICK, [1])
        np.testing.assert_array_equal(again.mask(), before)
        with pytest.raises(RequestError, match="no such version"):
            remote.choose("tiny", 7)
    later = tiny_engine(tmp_path / "state")
    assert later.residents.versions("tiny") == [0, 1], "versions survive a restart"
    later.close()


def test_a_session_finishes_on_the_version_it_began_with_s20() -> None:
    engine = tiny_engine()
    with threaded(engine) as url, RemotePredictor(url) as remote:
        session = remote.open(body_volume(), spacing_mm=SPACING_MM).add_points(CLICK, [1])
        before = session.mask().copy()
        session.accept(body_volume() > 500)
        remote.learn("tiny", seconds=0.5)
        session.undo()
        session.redo()
        np.testing.assert_array_equal(session.mask(), before)
        assert session.model == "tiny@0"


def test_a_server_may_refuse_to_learn() -> None:
    with threaded(tiny_engine(learning=False)) as url, RemotePredictor(url) as remote:
        with pytest.raises(AuthError, match="does not learn"):
            remote.learn("tiny")
        with pytest.raises(AuthError, match="fixed"):
            remote.choose("tiny", 0)


CANARY = "JANEDOE1961"


def test_no_canary_in_answers_logs_or_on_disk_v03_v09_v10_v11(
    server: Running, tmp_path: Path
) -> None:
    """Planted in file name, header strings and extension of a NIfTI file, and in free texts."""
    image = nibabel.Nifti1Image(body_volume().transpose(2, 1, 0), np.diag([0.8, 1, 3, 1]))
    image.header["descrip"] = CANARY
    image.header["db_name"] = CANARY
    image.header["aux_file"] = CANARY
    image.header["intent_name"] = CANARY
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    path = tmp_path / f"{CANARY}.nii"
    nibabel.save(image, path)
    lease = json.loads(ask(server.url, "POST", "/segkit/v1/leases")[2])["lease"]
    broken = [
        ("POST", f"/segkit/v1/{CANARY}", b""),
        ("GET", f"/segkit/v1/volumes/{CANARY}", b""),
        ("POST", f"/infer/{CANARY}?image={CANARY}", b"{}"),
        ("POST", "/segkit/v1/sessions", json.dumps({"image": CANARY, CANARY: 1}).encode()),
        ("POST", "/segkit/v1/volumes", CANARY.encode()),
    ]
    for method, where, body in broken:
        found = ask(server.url, method, where, body, X_Lease_Token=lease)
        assert CANARY.encode() not in found[2]
    with RemotePredictor(server.url) as remote:
        session = remote.open(path).add_points(CLICK, [1])
        written = session.save(tmp_path / "mask.nii").read_bytes()
        assert CANARY.encode() not in written
        time.sleep(0.5)
        for kept in (server.folder / "state").rglob("*"):
            assert CANARY not in str(kept)
            if kept.is_file() and kept.suffix != ".bin":
                assert CANARY.encode() not in kept.read_bytes(), kept.name
    log = server.log.read_text()
    assert CANARY not in log
    assert "Traceback" not in log
