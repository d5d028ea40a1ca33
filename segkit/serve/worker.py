"""One thread per device does all computing; clicks go before long work, and between its steps."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from segkit.serve.faults import Cancelled

T = TypeVar("T")
REST_S = 0.2
"""How long nothing must be asked before the thread works ahead: a click finds it free."""
_local = threading.local()


class Task(Generic[T]):
    """Work in line or under way; its function calls `step` (or `pause`) between units of work."""

    def __init__(
        self,
        worker: "Worker",
        function: Callable[["Task[T]"], T],
        key: Hashable,
        *,
        is_urgent: bool,
    ) -> None:
        self.worker, self.function, self.key, self.is_urgent = worker, function, key, is_urgent
        self.future: Future[T] = Future()
        self.done, self.total = 0, 0
        self._is_cancelled = threading.Event()

    def cancel(self) -> None:
        """Call it off: at once if it waits, at its next step if it runs."""
        self._is_cancelled.set()
        self.worker.forget(self)

    def step(self, done: int | None = None, total: int | None = None) -> None:
        """Report progress, let clicks of others go first, and stop if called off.

        Raises:
            Cancelled: `cancel` was called.
        """
        self.done = self.done if done is None else done
        self.total = self.total if total is None else total
        self.check()
        self.worker.serve_others()
        self.check()

    def check(self) -> None:
        """Stop if called off."""
        if self._is_cancelled.is_set():
            raise Cancelled

    def run(self) -> None:
        """Compute, on the thread of the worker."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.check()
            result = self.function(self)
        except BaseException as error:  # whoever waits for the result gets it
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Worker:
    """A thread with a line of tasks.

    Tasks of one `key` run one after the other. While a task pauses between its steps, urgent tasks
    of other keys run inside the pause, so that a long job does not hold up a click.

    When nothing has been asked for `REST_S`, `ahead` is called until it says that nothing is left,
    or a task arrives. One call should be short, since a click waits for its end.
    """

    def __init__(self, name: str = "device", *, ahead: Callable[[], bool] = lambda: False) -> None:
        self._ahead = ahead
        self._line: list[Task[Any]] = []
        self._active: list[Task[Any]] = []
        self._changed = threading.Condition()
        self._is_open = True
        self._thread = threading.Thread(target=self._work, name=f"segkit-{name}", daemon=True)
        self._thread.start()

    def submit(
        self, function: Callable[[Task[T]], T], *, key: Hashable = None, is_urgent: bool = True
    ) -> Task[T]:
        """Put work in line; its future gives the result."""
        task = Task(self, function, key, is_urgent=is_urgent)
        with self._changed:
            if not self._is_open:
                task.future.set_exception(Cancelled())
                return task
            self._line.append(task)
            self._changed.notify()
        return task

    def forget(self, task: Task[Any]) -> None:
        """Take a task out of the line if it has not begun."""
        with self._changed:
            if task not in self._line:
                return
            self._line.remove(task)
        task.future.set_exception(Cancelled())

    def serve_others(self) -> None:
        """Run the urgent tasks in line, except those that must wait for one under way."""
        while (task := self._take(is_nested=True)) is not None:
            self._execute(task)

    def close(self, timeout_s: float = 10.0) -> None:
        """Call everything off and end the thread."""
        with self._changed:
            self._is_open = False
            tasks = [*self._line, *self._active]
            self._changed.notify_all()
        for task in tasks:
            task.cancel()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        rest_s: float | None = None
        while True:
            has_rested = False
            with self._changed:
                while self._is_open and not self._line and not has_rested:
                    has_rested = not self._changed.wait(rest_s)
                if not self._is_open:
                    return
            if has_rested:
                rest_s = 0.0 if self._work_ahead() else None
            elif (task := self._take(is_nested=False)) is not None:
                self._execute(task)
                rest_s = REST_S

    def _work_ahead(self) -> bool:
        task = Task(self, lambda _: self._ahead(), None, is_urgent=False)
        task.run()
        # what failed will fail again for whoever asks for it, and be told to them
        return task.future.exception() is None and task.future.result()

    def _take(self, *, is_nested: bool) -> Task[Any] | None:
        with self._changed:
            busy = {task.key for task in self._active if task.key is not None}
            ready = [task for task in self._line if task.key not in busy]
            urgent = [task for task in ready if task.is_urgent]
            chosen = urgent or ([] if is_nested else ready)
            if not chosen:
                return None
            self._line.remove(chosen[0])
            self._active.append(chosen[0])
            return chosen[0]

    def _execute(self, task: Task[Any]) -> None:
        before = getattr(_local, "task", None)
        _local.task = task
        try:
            task.run()
        finally:
            _local.task = before
            with self._changed:
                self._active.remove(task)


def pause(done: int | None = None, total: int | None = None) -> None:
    """Step of whatever task this thread runs; nothing outside a worker.

    Raises:
        Cancelled: The task was called off.
    """
    task: Task[Any] | None = getattr(_local, "task", None)
    if task is not None:
        task.step(done, total)
