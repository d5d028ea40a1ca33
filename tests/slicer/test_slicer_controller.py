"""The state machine of the extension, with a scene of arrays and a stand-in for the server."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from SegKitLib.client import GoneError, RequestError, UnreachableError
from SegKitLib.controller import ConsentError, Controller, State, is_elsewhere
from SegKitLib.jobs import Jobs
from SegKitLib.marks import Box, Click, Drawing, Propagate, SceneError, Target
from SegKitLib.rehearsal import RehearsalPredictor, RehearsalSession
from SegKitLib.worker import Worker

SHAPE = (6, 20, 20)
HOME = "http://127.0.0.1:1527"
A, B = Target("v", "s", "a"), Target("v", "s", "b")


class ArrayScene:
    """Segments as arrays; `restore` goes back one write, as the editor's undo."""

    def __init__(self) -> None:
        self.voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
        self.version = 0
        self.segments = {name: np.zeros(SHAPE, bool) for name in "ab"}
        self.history: list[tuple[Target, dict[str, np.ndarray]]] = []
        self.images_read = 0

    def prepare(self, target: Target) -> None:
        if target.segment not in self.segments:
            raise SceneError("the segment was deleted")

    def image(self, _: str) -> Any:
        self.images_read += 1
        return type("Image", (), {"array": self.voxels.copy(), "affine": np.eye(4)})()

    def volume_stamp(self, volume_id: str) -> tuple[object, ...]:
        return volume_id, self.version

    def mask(self, target: Target) -> np.ndarray:
        return self.segments[target.segment].copy()

    def stamp(self, target: Target) -> tuple[int, int]:
        self.prepare(target)
        held = self.segments[target.segment]
        return int(held.sum()), hash(held.tobytes())

    def write(self, target: Target, edges: Any, content: np.ndarray) -> bool:
        self.prepare(target)
        self.history.append((target, {k: v.copy() for k, v in self.segments.items()}))
        self.segments[target.segment][tuple(slice(*edge) for edge in edges)] = content
        return True

    def restore(self, target: Target) -> bool:
        if not self.history or self.history[-1][0] != target:
            return False
        self.segments = self.history.pop()[1]
        return True

    def write_labels(self, _: str, __: str, labels: Any, names: Any) -> list[str]:
        self.labels, self.names = labels, names
        return [names[int(value)] for value in np.unique(labels) if value]


class Bench:
    """Controller with its parts; `settle` polls until nothing is under way."""

    def __init__(self, connect: Callable[..., Any] = RehearsalPredictor) -> None:
        self.scene, self.states = ArrayScene(), [State.OFF]
        self.made: list[Any] = []

        def keep(*args: Any, **options: Any) -> Any:
            self.made.append(connect(*args, **options))
            return self.made[-1]

        self.controller = Controller(self.scene, Worker(), connect=keep, on_change=self._note)
        self.jobs = Jobs(self.controller, self.scene)

    def settle(self) -> None:
        for _ in range(200):
            if not self.controller.poll(0.05):
                return
        raise AssertionError("it did not settle")

    def connect(self) -> "Bench":
        self.controller.connect(HOME, "token")
        self.settle()
        return self

    def add(self, *marks: Any, target: Target = A) -> None:
        for mark in marks:
            self.controller.add(target, mark)
        self.settle()

    def _note(self) -> None:
        if self.states[-1] is not self.controller.state:
            self.states.append(self.controller.state)


@pytest.fixture
def bench() -> Bench:
    return Bench().connect()


def ball(index: tuple[int, int, int]) -> np.ndarray:
    session = RehearsalSession(SHAPE, "balls")
    session.add_points([index], [1])
    return session.mask()


def test_a_click_goes_through_all_states(bench: Bench) -> None:
    bench.add(Click((3, 9, 9)))
    np.testing.assert_array_equal(bench.scene.segments["a"], ball((3, 9, 9)))
    states = [State.OFF, State.CONNECTING, State.READY, State.BUSY, State.READY]
    assert bench.states == states
    assert bench.controller.model == "balls"
    assert bench.made[0].token == "token"


def test_marks_of_every_kind_arrive(bench: Bench) -> None:
    line = np.ones((1, 1, 4), bool)
    bench.add(Box(((1, 2), (2, 4), (2, 4))), Drawing("scribble", line, ((2, 3), (5, 6), (5, 9))))
    bench.add(Drawing("lasso", line, ((2, 3), (7, 8), (5, 9)), 1), Propagate(4, 6))
    held = bench.scene.segments["a"]
    assert held[1, 2:4, 2:4].all()
    assert held[2, 5, 5:9].all()
    assert held[5, 7, 5:9].all()
    assert not held[0].any()


def test_an_image_is_sent_once_and_again_when_it_changed(bench: Bench) -> None:
    bench.add(Click((3, 9, 9)))
    bench.add(Click((3, 5, 5)), target=B)
    assert bench.scene.images_read == len(bench.made[0].uploads) == 1
    bench.scene.voxels += 1
    bench.scene.version += 1
    bench.add(Click((3, 2, 2)))
    assert bench.scene.images_read == 2
    (held,) = bench.made[0].uploads
    np.testing.assert_array_equal(held, bench.scene.voxels)
    # what was there before is kept through the change of image
    np.testing.assert_array_equal(bench.scene.segments["a"], ball((3, 9, 9)) | ball((3, 2, 2)))


def test_marks_that_wait_are_computed_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    show = RehearsalSession._show
    monkeypatch.setattr(
        RehearsalSession, "_show", lambda self: (shown.append(self._at), show(self))[1]
    )
    clicks = [Click((3, 2 + 3 * n, 9)) for n in range(5)]
    bench.add(*clicks)
    # the first one goes at once, the others when it is back
    assert shown == [1, 5]
    held = bench.scene.segments["a"]
    assert all(held[3, 2 + 3 * n, 9] for n in range(5))


def test_undo_and_redo_step_by_step(bench: Bench) -> None:
    first, both = ball((3, 9, 9)), ball((3, 9, 9)) | ball((3, 3, 3))
    bench.add(Click((3, 9, 9)))
    bench.add(Click((3, 3, 3)))
    for action, expected in (("undo", first), ("redo", both), ("undo", first)):
        getattr(bench.controller, action)(A)
        bench.settle()
        np.testing.assert_array_equal(bench.scene.segments["a"], expected)
    bench.controller.undo(A)
    bench.settle()
    assert not bench.scene.segments["a"].any()
    bench.controller.undo(A)
    assert bench.controller.message == "nothing to undo on this segment"


def test_undo_brings_back_what_was_overwritten(bench: Bench) -> None:
    bench.scene.segments["b"][3] = True

    def write(target: Target, edges: Any, content: np.ndarray) -> bool:
        before = ArrayScene.write(bench.scene, target, edges, content)
        bench.scene.segments["b"] &= ~bench.scene.segments["a"]
        return before

    bench.scene.write = write  # type: ignore[method-assign]
    bench.add(Click((3, 9, 9)))
    assert not bench.scene.segments["b"][3].all()
    bench.controller.undo(A)
    bench.settle()
    assert bench.scene.segments["b"][3].all()


def test_undo_of_a_segment_that_is_not_the_last_one_leaves_others(bench: Bench) -> None:
    bench.add(Click((3, 9, 9)))
    bench.add(Click((3, 3, 3)), target=B)
    bench.controller.undo(A)
    bench.settle()
    assert not bench.scene.segments["a"].any()
    np.testing.assert_array_equal(bench.scene.segments["b"], ball((3, 3, 3)))


def test_what_was_edited_by_hand_is_kept(bench: Bench) -> None:
    bench.add(Click((3, 9, 9)))
    bench.scene.segments["a"][0, 0, 0] = True
    bench.scene.segments["a"][3, 9, 9] = False
    bench.controller.undo(A)
    assert "edited since" in bench.controller.message
    bench.add(Click((1, 15, 15)))
    held = bench.scene.segments["a"]
    assert held[0, 0, 0]
    assert not held[3, 9, 9]
    assert held[1, 15, 15]
    bench.controller.undo(A)
    bench.settle()
    assert held[0, 0, 0]
    # not further back than the edit
    bench.controller.undo(A)
    assert "nothing to undo" in bench.controller.message


def test_a_segment_painted_before_is_refined_not_replaced(bench: Bench) -> None:
    bench.scene.segments["a"][0, :2] = True
    bench.add(Click((4, 15, 15)))
    bench.scene.segments["a"][:] = False
    bench.add(Click((4, 4, 4)))
    # emptied by hand: nothing of the old marks comes back
    np.testing.assert_array_equal(bench.scene.segments["a"], ball((4, 4, 4)))


def test_another_model_goes_on_from_the_segment(bench: Bench) -> None:
    bench.add(Click((3, 9, 9)))
    bench.controller.model = "other"
    bench.add(Click((3, 3, 3)))
    bench.controller.model = "balls"
    bench.add(Click((0, 15, 15)))
    expected = ball((3, 9, 9)) | ball((3, 3, 3)) | ball((0, 15, 15))
    np.testing.assert_array_equal(bench.scene.segments["a"], expected)


def test_deleted_segments_and_late_answers(bench: Bench) -> None:
    bench.controller.add(A, Click((3, 9, 9)))
    del bench.scene.segments["a"]
    bench.settle()
    assert bench.controller.message == "the segment was deleted"
    assert bench.controller.is_error
    bench.controller.add(B, Click((3, 9, 9)))
    bench.controller.disconnect()
    bench.settle()
    assert bench.controller.state is State.OFF


def test_nothing_happens_without_a_server() -> None:
    bench = Bench()
    bench.add(Click((3, 9, 9)))
    assert "connect to a server first" in bench.controller.message
    bench.jobs.learn(1.0)
    assert bench.controller.state is State.OFF


def test_refused_connections_say_why() -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UnreachableError("no answer from 127.0.0.1:1527; is the server running?")

    bench = Bench(refuse).connect()
    assert bench.controller.state is State.OFF
    assert "is the server running" in bench.controller.message
    bench.controller.check(HOME)
    bench.settle()
    assert bench.controller.is_error


def test_images_go_to_other_machines_with_consent_only() -> None:
    bench = Bench()
    with pytest.raises(ConsentError, match=r"seg\.example\.org"):
        bench.controller.connect("https://seg.example.org")
    assert not bench.made
    bench.controller.connect("https://seg.example.org", has_consent=True)
    bench.settle()
    assert bench.controller.state is State.READY
    assert not is_elsewhere("localhost:80")
    assert not is_elsewhere("http://[::1]:80")
    assert is_elsewhere("127.0.0.1.example.org")


def test_a_check_sends_nothing_and_changes_nothing() -> None:
    bench = Bench()
    bench.controller.check(HOME, "token")
    bench.settle()
    assert bench.controller.message == f"{HOME} answers; models: balls, bright"
    assert bench.controller.state is State.OFF
    assert bench.made[0].uploads == []


class Flaky(RehearsalPredictor):
    """Fails once when a session is opened."""

    error: BaseException | None = None

    def open(self, *args: Any, **options: Any) -> Any:
        error, Flaky.error = Flaky.error, None
        if error is not None:
            raise error
        return super().open(*args, **options)


def test_a_server_that_forgot_us_gets_everything_again() -> None:
    bench = Bench(Flaky).connect()
    bench.scene.segments["a"][0, 0] = True
    Flaky.error = GoneError("this session is gone", status=410)
    bench.add(Click((3, 9, 9)))
    assert len(bench.made) == 2
    assert bench.scene.images_read == 2
    held = bench.scene.segments["a"]
    assert held[0, 0].all()
    assert held[3, 9, 9]


def test_marks_wait_for_a_server_out_of_reach() -> None:
    bench = Bench(Flaky).connect()
    Flaky.error = UnreachableError("no answer")
    bench.add(Click((3, 9, 9)))
    assert bench.controller.is_error
    assert bench.controller.waiting == 1
    bench.controller.retry()
    bench.settle()
    assert bench.scene.segments["a"][3, 9, 9]
    assert bench.controller.waiting == 0


def test_refused_marks_are_named_and_dropped() -> None:
    bench = Bench(Flaky).connect()
    Flaky.error = RequestError("the point lies outside the image", status=400)
    bench.add(Click((3, 9, 9)))
    assert bench.controller.message == "the point lies outside the image"
    assert bench.controller.waiting == 0
    assert bench.controller.state is State.READY


def test_faults_of_the_program_are_not_hidden() -> None:
    bench = Bench(Flaky).connect()
    Flaky.error = ZeroDivisionError("a bug")
    bench.controller.add(A, Click((3, 9, 9)))
    with pytest.raises(ZeroDivisionError):
        bench.settle()


def test_whole_volumes_give_named_segments(bench: Bench) -> None:
    bench.jobs.segment_all("v", "s", "bright")
    bench.settle()
    assert bench.controller.message == "bright: 1 segments added"
    assert bench.scene.names == {1: "bright"}
    assert bench.scene.labels.max() == 1


def test_learning_takes_the_segment_as_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: list[np.ndarray] = []
    monkeypatch.setattr(RehearsalSession, "accept", lambda _, mask: accepted.append(mask) or "id")
    chosen: list[int] = []
    remote = bench.made[0]
    remote.learn = lambda *_, **__: {"version": 1, "has_helped": True}
    remote.choose = lambda _, version: chosen.append(version)
    bench.scene.segments["a"][2, 3:5] = True
    bench.jobs.accept(A)
    bench.settle()
    np.testing.assert_array_equal(accepted[0], bench.scene.segments["a"])
    bench.jobs.learn(5.0)
    bench.settle()
    assert bench.controller.message == "version 1 of balls is used from now on"
    bench.jobs.choose(0)
    bench.settle()
    assert chosen == [0]


def test_cancel_drops_what_waits(bench: Bench) -> None:
    bench.controller.add(A, Click((3, 9, 9)))
    bench.controller.add(A, Click((3, 2, 2)))
    bench.controller.cancel()
    bench.settle()
    assert not bench.scene.segments["a"][3, 2, 2]
    bench.controller.close()
