"""The thread that computes: what it does when nobody asks."""

import threading
import time

import pytest

from segkit.serve import worker as module
from segkit.serve.worker import Worker


class Ahead:
    """Work for idle times: `left` units; remembers when each began."""

    def __init__(self, left: int) -> None:
        self.left, self.began = left, [0.0][:0]
        self.is_done = threading.Event()

    def __call__(self) -> bool:
        if not self.left:
            self.is_done.set()
            return False
        self.left -= 1
        self.began.append(time.monotonic())
        return True


@pytest.fixture
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_S", 0.05)


def test_nothing_is_done_ahead_before_the_first_task(short_rest: None) -> None:
    ahead = Ahead(1)
    worker = Worker(ahead=ahead)
    time.sleep(0.15)
    assert ahead.left == 1
    worker.close()


def test_it_works_ahead_once_nobody_asks(short_rest: None) -> None:
    ahead = Ahead(3)
    worker = Worker(ahead=ahead)
    worker.submit(lambda _: None).future.result(10)
    end = time.monotonic()
    assert ahead.is_done.wait(10)
    assert len(ahead.began) == 3
    assert ahead.began[0] - end > 0.03, "it waits before it begins"
    worker.close()


def test_a_task_comes_before_what_is_done_ahead(short_rest: None) -> None:
    """Work ahead goes on for ever here; a task is still done after one unit of it."""
    worker = Worker(ahead=lambda: time.sleep(0.01) or True)
    worker.submit(lambda _: None).future.result(10)
    time.sleep(0.2)
    start = time.monotonic()
    assert worker.submit(lambda _: 42).future.result(10) == 42
    assert time.monotonic() - start < 1
    worker.close()


def test_what_fails_ahead_does_not_end_the_thread(short_rest: None) -> None:
    called = threading.Event()

    def fail() -> bool:
        called.set()
        raise MemoryError

    worker = Worker(ahead=fail)
    worker.submit(lambda _: None).future.result(10)
    assert called.wait(10)
    assert worker.submit(lambda _: 1).future.result(10) == 1
    worker.close()
