"""The unmodified nnInteractive client against a real server process with nano."""

import gc

import httpx
import numpy as np
import pytest
from serving import SHAPE, SPACING_MM, TOKEN, Running, ask, body_volume, threaded, tiny_engine

pytest.importorskip(
    "nnInteractive.inference.remote", reason="nninteractive-client is not installed"
)
from nnInteractive.inference.remote.remote_session import (
    ServerAtCapacityError,
    SessionExpiredError,
    nnInteractiveRemoteInferenceSession,
)

Remote = nnInteractiveRemoteInferenceSession
CENTRE = (6, 20, 24)


def opened(url: str, dtype: type = np.uint8) -> Remote:
    session = Remote(url)
    session.set_image(body_volume()[None], {"spacing": list(SPACING_MM)})
    session.set_target_buffer(np.zeros(SHAPE, dtype))
    return session


def test_whole_workflow(server: Running) -> None:
    with opened(server.url) as session:
        assert session.ping()
        assert session.supports_undo
        assert all(session.supported_interactions.values())
        buffer = session.target_buffer
        box = session.add_point_interaction(CENTRE, True)
        assert box is not None
        assert box[0] == [6, 7], "a click marks its own slice"
        one = buffer.copy()
        assert one[6].any()
        assert not np.delete(one, 6, axis=0).any()
        session.add_bbox_interaction([[4, 5], [12, 28], [14, 34]], True)
        assert buffer[4].any()
        session.add_bbox_interaction([[7, 9], [12, 28], [14, 34]], True)
        assert buffer[7].any()
        assert buffer[8].any()
        drawn = np.zeros((1, 10, 3), np.uint8)
        drawn[0, :, 1] = 1
        session.add_scribble_interaction(
            drawn, False, interaction_bbox=[[8, 9], [14, 24], [20, 23]]
        )
        lasso = np.zeros(SHAPE, np.uint8)
        lasso[3, 12:28, 14:34] = 1
        session.add_lasso_interaction(lasso, True)
        assert buffer[3].any()
        status = session.lease_status()
        assert 0 < status["remaining_seconds"] <= status["idle_timeout_seconds"]
        session.reset_interactions()
        assert not buffer.any()
        assert not session.undo(), "a reset leaves nothing to undo"


def test_undo_has_one_level(server: Running) -> None:
    with opened(server.url) as session:
        session.add_point_interaction(CENTRE, True)
        before = session.target_buffer.copy()
        session.add_bbox_interaction([[4, 5], [12, 28], [14, 34]], True)
        assert session.undo()
        np.testing.assert_array_equal(session.target_buffer, before)
        assert not session.undo()
        session.add_point_interaction((4, 20, 24), True)
        assert session.undo()


def test_prompts_can_wait_for_predict(server: Running) -> None:
    with opened(server.url) as session:
        assert session.add_point_interaction(CENTRE, True, run_prediction=False) is None
        assert not session.target_buffer.any()
        assert session._predict() is not None
        assert session.target_buffer[6].any()
        assert session._predict() is None, "nothing is left in line"


def test_initial_segmentation_is_the_start(server: Running) -> None:
    with opened(server.url) as session:
        session.add_point_interaction((9, 20, 24), True)
        start = np.zeros(SHAPE, np.uint8)
        start[3:6, 12:28, 14:34] = 1
        session.add_initial_seg_interaction(start)
        np.testing.assert_array_equal(session.target_buffer, start)
        box = session.add_point_interaction((4, 20, 24), True)
        assert box is None or box[0] == [4, 5]
        np.testing.assert_array_equal(session.target_buffer[3], start[3])
        session.undo()
        np.testing.assert_array_equal(session.target_buffer, start)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int16, np.int64])
def test_buffer_types(server: Running, dtype: type) -> None:
    with opened(server.url, dtype) as session:
        session.add_point_interaction(CENTRE, True)
        assert session.target_buffer.dtype == dtype
        assert session.target_buffer.max() == 1


def test_a_smaller_buffer_gets_what_fits(server: Running) -> None:
    with opened(server.url) as session:
        session.set_target_buffer(np.zeros((12, 20, 24), np.uint8))
        box = session.add_point_interaction((6, 15, 18), True)
        assert box is not None
        assert box[1][1] <= 20
        assert box[2][1] <= 24


def test_a_new_image_needs_a_new_buffer(server: Running) -> None:
    with opened(server.url) as session:
        session.add_point_interaction(CENTRE, True)
        session.set_image(body_volume(5)[None], {})
        assert session.add_point_interaction(CENTRE, True) is None
        session.set_target_buffer(np.zeros(SHAPE, np.uint8))
        assert session.add_point_interaction((6, 18, 22), True) is not None


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda s: s.add_point_interaction((60, 1, 1), True), "outside the image"),
        (lambda s: s.add_bbox_interaction([[4, 4], [1, 9], [1, 9]], True), "no extent"),
        (lambda s: s.add_bbox_interaction([[40, 50], [1, 9], [1, 9]], True), "outside the image"),
        (lambda s: s.add_lasso_interaction(np.zeros(SHAPE, np.uint8), True), "is empty"),
        (lambda s: s.add_scribble_interaction(np.ones((2, 2, 2)), True), "its box"),
        (lambda s: s.set_target_buffer(np.zeros(SHAPE, np.float32)), "dtype of the buffer"),
        (lambda s: s.set_target_buffer(np.zeros((3, 3), np.uint8)), "shape"),
        (lambda s: s.set_image(np.full((1, 4, 8, 8), np.nan, np.float32)), "NaN"),
        (lambda s: s.set_image(np.zeros((2, 4, 8, 8), np.int16)), "one channel"),
        (lambda s: s.set_image(body_volume()[None], {"spacing": [1, 2]}), "three numbers"),
    ],
)
def test_wrong_values_are_400_with_words(server: Running, act: object, says: str) -> None:
    with opened(server.url) as session:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            act(session)  # type: ignore[operator]
        assert refused.value.response.status_code == 400
        assert says in refused.value.response.json()["detail"]
        assert session.lease_status(), "the session goes on"


def test_a_closed_lease_is_gone(server: Running) -> None:
    session = opened(server.url)
    lease = session._lease_token
    session._http.post("/release")
    with pytest.raises(SessionExpiredError, match="lease"):
        session.add_point_interaction(CENTRE, True)
    assert session._http.post("/release", headers={"X-Lease-Token": lease}).json()["released"]
    session.close()


# the client leaves its connection open when its constructor raises
LEAKY = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@LEAKY
def test_a_full_server_says_when_to_come_back() -> None:
    with threaded(tiny_engine(max_leases=1)) as url:
        assert ask(url, "POST", "/claim")[0] == 200
        with pytest.raises(ServerAtCapacityError, match="places are taken"):
            Remote(url)
        status, headers, _ = ask(url, "POST", "/claim")
        assert (status, headers["retry-after"]) == (503, "10")
        gc.collect()


@LEAKY
def test_the_key_is_checked(guarded: str) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        Remote(guarded, api_key="wrong")
    with Remote(guarded, api_key=TOKEN) as session:
        assert session.lease_status()
    gc.collect()
