"""Recordings and volumes as sequences: the masks of the local tracker, progress, calling off."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import ask, body_volume, threaded, tiny_engine, wait_for

from segkit.client import RemotePredictor, RequestError
from segkit.client.codec import CONTENT_TYPE, encode
from segkit.data.volume import Volume
from segkit.geometry import Geometry
from segkit.models import build
from segkit.models.tracker import Tracker
from segkit.predictors import VolumePredictor
from segkit.predictors.video import VideoPredictor
from segkit.predictors.video_session import VideoSession
from segkit.serve.engine import Engine

FRAMES = 6
BOX = ((8, 24), (10, 30))


def frames(*, colour: bool = False) -> np.ndarray:
    """A bright square that moves, on noise."""
    found = np.random.default_rng(0).integers(0, 60, (FRAMES, 40, 48), dtype=np.uint8)
    for index in range(FRAMES):
        found[index, 8 + index : 24 + index, 10:30] += 150
    return np.repeat(found[..., None], 3, axis=3) if colour else found


def seed(frame: int = 0, **more: object) -> dict[str, object]:
    return {"object": 1, "frame": frame, "box": BOX, **more}


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return build.nano2.tracker()


@pytest.fixture(scope="module")
def engine(tracker: Tracker) -> Engine:
    # a machine that stands still for minutes must not cost the client its place
    made = tiny_engine(liveness_s=3600.0, idle_s=3600.0)
    made.residents.add("nano2", VolumePredictor(tracker.segmenter, device="cpu"))
    return made


@pytest.fixture(scope="module")
def remote(engine: Engine) -> Iterator[RemotePredictor]:
    with threaded(engine) as url, RemotePredictor(url) as predictor:
        yield predictor


def local(tracker: Tracker, source: object) -> VideoSession:
    return VideoPredictor(tracker, device="cpu").open(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_colour", [False, True])
def test_masks_are_those_of_the_local_tracker(
    remote: RemotePredictor, tracker: Tracker, is_colour: bool
) -> None:
    shown = frames(colour=is_colour)
    session = local(tracker, shown)
    session.add_box(((8, 10), (24, 30)), frame=1, object_id=3)
    session.add_points([(16, 20)], [1], frame=1, object_id=3)
    expected = np.zeros(shown.shape[:3], np.uint8)
    for reverse in (False, True):
        for found in session.propagate(1, reverse=reverse):
            expected[found.frame] = 3 * found.masks[3]
    seen: list[tuple[int, int]] = []
    clip = remote.upload_clip(shown, spacing_mm=(0.5, 0.5))
    assert (clip.frames, clip.shape) == (FRAMES, (40, 48))
    marked = {**seed(1, points=[(16, 20)], labels=[1]), "object": 3}
    labels = remote.track(clip, [marked], progress=lambda *step: seen.append(step))
    assert expected.any()
    np.testing.assert_array_equal(labels, expected)
    assert seen[-1] == (FRAMES + 1, FRAMES + 1), "the marked frame is passed in both directions"
    remote.drop(clip)
    with pytest.raises(RequestError, match="no such clip"):
        remote.track(clip, [marked])


def test_a_video_file(remote: RemotePredictor, engine: Engine, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="the extra [video] is not installed")
    path = tmp_path / "patient-jane-doe.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for picture in frames(colour=True):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    clip = remote.upload_clip(path)
    kept = list(engine.temporary.iterdir())
    assert [(one.suffix, one.stat().st_mode & 0o077) for one in kept] == [(".mp4", 0)]
    assert "jane" not in str(kept)
    labels = remote.track(clip, [seed()], stop=4, direction="forward")
    assert labels.shape == (4, 40, 48), "nobody knows yet how many frames there are"
    assert labels[0].any()
    assert remote.track(clip, [seed()]).shape == (FRAMES, 40, 48)
    remote.drop(clip)
    assert not list(engine.temporary.iterdir())
    with pytest.raises(RequestError, match="unknown suffix"):
        remote.upload_clip(tmp_path / "notes.txt")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(RequestError):
        remote.upload_clip(broken)
    assert not list(engine.temporary.iterdir()), "what cannot be read is not kept"


@pytest.mark.parametrize("axis", [None, 1])
def test_a_volume_is_a_sequence(
    remote: RemotePredictor, tracker: Tracker, axis: int | None
) -> None:
    volume = body_volume()
    geometry = Geometry.from_spacing(volume.shape, (3.0, 1.0, 0.8))
    image = remote.upload(volume, spacing_mm=(3.0, 1.0, 0.8))
    edges = ((12, 14), (28, 34)) if axis is None else ((3, 14), (9, 34))
    frame = 5 if axis is None else 20
    session = VideoPredictor(tracker, device="cpu").open(Volume(volume, geometry), axis=axis)
    session.add_box(edges, frame=frame)
    expected = np.zeros(volume.shape, bool)
    place = np.moveaxis(expected, axis or 0, 0)
    for found in session.propagate(frame, 3):
        place[found.frame] = found.masks[1]
    (top, left), (bottom, right) = edges
    wish = {"frame": frame, "box": ((top, bottom), (left, right))}
    how = {} if axis is None else {"axis": axis}
    labels = remote.track(image, [wish], stop=frame + 3, direction="forward", **how)
    np.testing.assert_array_equal(labels > 0, expected)
    assert expected.any()


def test_a_corrected_slice_is_carried_on(remote: RemotePredictor) -> None:
    image = remote.upload(body_volume(), spacing_mm=(3.0, 1.0, 0.8))
    session = remote.open(image, model="tiny")
    mask = np.zeros(session.shape, bool)
    mask[5, 12:28, 14:34] = True
    session.add_mask(mask)
    labels = remote.track(image, [{"frame": 5, "session": session.id}], start=4, stop=7)
    np.testing.assert_array_equal(labels[5] > 0, mask[5])
    assert not labels[:4].any()
    assert not labels[7:].any()


def test_calling_off_ends_the_job(
    remote: RemotePredictor, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = Tracker.track

    def slow(*args: object) -> object:
        time.sleep(0.05)
        return track(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Tracker, "track", slow)
    clip = remote.upload_clip(np.tile(frames(), (50, 1, 1)))
    failed: list[BaseException] = []

    def long() -> None:
        try:
            remote.track(clip, [seed()])
        except RequestError as error:
            failed.append(error)

    thread = threading.Thread(target=long)
    thread.start()
    wait_for(lambda: any(task.done for task in engine.worker._active), 60)
    remote.cancel()
    thread.join(60)
    assert "cancelled" in str(failed[0])
    assert not any(one.name == "segkit-frames" and one.is_alive() for one in threading.enumerate())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": [{"frame": 0}]}, "a seed is points"),
        ({"seeds": [{"frame": 99, "box": BOX}]}, "no frame 99"),
        ({"seeds": [{"frame": 0, "points": [(1, 1)]}]}, "1 points have 0 labels"),
        ({"seeds": [{"frame": 0, "points": [(99, 1)], "labels": [1]}]}, "outside"),
        ({"seeds": [{"object": 0, "frame": 0, "box": BOX}]}, "object"),
        ({"model": "tiny"}, "has no memory"),
        ({"direction": "sideways"}, "direction"),
    ],
)
def test_what_does_not_fit_is_refused(
    remote: RemotePredictor, more: dict[str, object], says: str
) -> None:
    clip = remote.upload_clip(frames())
    wish = {"seeds": [seed()], **more}
    with pytest.raises(RequestError, match=says):
        remote.track(clip, **wish)  # type: ignore[arg-type]
    remote.drop(clip)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 4), np.uint8), "no sequence of frames"),
        (np.zeros((4, 4, 4, 2), np.uint8), "no sequence of frames"),
        (np.full((2, 4, 4), np.nan, np.float32), "NaN"),
    ],
)
def test_frames_are_checked(remote: RemotePredictor, array: np.ndarray, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        remote.upload_clip(array)


def test_clips_are_their_clients_own_s15_s16(plain: str) -> None:
    mine, other = (json.loads(ask(plain, "POST", "/segkit/v1/leases")[2])["lease"] for _ in "ab")
    sent = b"".join(encode(frames()))
    about = {"X_Lease_Token": mine, "Content_Type": CONTENT_TYPE, "X_Meta": "{}"}
    clip = json.loads(ask(plain, "POST", "/segkit/v1/clips", sent, **about)[2])["id"]
    answers = {
        ask(plain, "DELETE", f"/segkit/v1/clips/{name}", X_Lease_Token=other)[::2]
        for name in (clip, "0" * 32)
    }
    assert [status for status, _ in answers] == [404]
    assert ask(plain, "DELETE", f"/segkit/v1/clips/{clip}", X_Lease_Token=mine)[0] == 200


def test_clips_survive_a_restart_s19(tmp_path: Path) -> None:
    first = tiny_engine(tmp_path / "state")
    with threaded(first) as url:
        remote = RemotePredictor(url)
        clip, lease = remote.upload_clip(frames()), remote.lease
        remote.close(keeps_work=True)
    second = tiny_engine(tmp_path / "state")
    with threaded(second) as url, RemotePredictor(url, lease=lease) as again:
        assert again.models()
        (space,) = [one.workspace for one in second.everybody()]
        source = space.clip(clip.id).source
        np.testing.assert_array_equal(source.read(2).array, frames()[2])
        with pytest.raises(RequestError, match="start the server with -m nano2"):
            again.track(clip, [seed()])
        array = source.array  # type: ignore[attr-defined]
    assert not array.any(), "overwritten when it goes"
