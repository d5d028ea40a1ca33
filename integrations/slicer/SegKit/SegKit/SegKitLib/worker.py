"""One thread for everything that waits for the server; results come back where they are polled."""

import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Job:
    work: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[BaseException], None]
    future: "Future[Any]"


class Worker:
    """Runs jobs one after another in its thread; `poll` hands results to the caller's thread.

    So MRML and Qt are touched by the application's thread only, and the client by this one only.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending: deque[_Job] = deque()
        # a daemon: the application may end while a server does not answer
        threading.Thread(target=self._run, name="segkit-worker", daemon=True).start()

    @property
    def is_busy(self) -> bool:
        """Whether a job is not finished or its result was not handed over."""
        return bool(self._pending)

    def submit(
        self,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Queue `work`; `poll` calls `done` with its result, or `failed` with its error."""
        job = _Job(work, done, failed, Future())
        self._pending.append(job)
        self._jobs.put(job)

    def poll(self, wait_s: float = 0.0) -> int:
        """Hand over what is finished, waiting for the first job at most `wait_s`; say how many."""
        count = 0
        while self._pending:
            future = self._pending[0].future
            if not future.done() and (count or not _is_done_within(future, wait_s)):
                break
            job = self._pending.popleft()
            count += 1
            error = future.exception()
            if error is not None:
                job.failed(error)
            else:
                job.done(future.result())
        return count

    def stop(self) -> None:
        """Take no more jobs and forget what was not handed over."""
        self._pending.clear()
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.future.set_result(job.work())
            except BaseException as error:
                # it belongs to the thread that polls
                job.future.set_exception(error)


def _is_done_within(future: "Future[Any]", wait_s: float) -> bool:
    if wait_s > 0:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        done.wait(wait_s)
    return future.done()
