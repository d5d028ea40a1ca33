"""Read the next case and write the last one while a case is predicted."""

import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Any, TypeVar

from segkit.backbones.checkpoints import file_sha256
from segkit.data.volume import Picture, Volume
from segkit.errors import DataWarning, SegkitError
from segkit.predictors.cohort import CaseResult

_log = logging.getLogger(__name__)

Source = Volume | Picture
Write = Callable[[], Sequence[Path]]
"""Puts the masks of a case on disk; returns their files."""
T = TypeVar("T")

# what one case may fail with while the others go on; CUDA's lack of memory is a RuntimeError
_FAILURES = (SegkitError, OSError, ValueError, RuntimeError, MemoryError)


@dataclass(frozen=True, slots=True)
class Job:
    """One input and the files its masks go to, one per model."""

    source: Path
    outputs: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Steps:
    """`read` brings an input into memory, `predict` returns what writes its masks."""

    read: Callable[[Path], Source]
    predict: Callable[[Source, Job], Write]


@dataclass(slots=True)
class _Case:
    job: Job
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None


class Pipeline:
    """Runs jobs through three stages, each in a thread of its own; prediction stays in this one.

    At most one case is read ahead and one waits for being written, so that memory does not grow
    with the number of jobs. A case that fails becomes a result, never an end of the run.

    Example:
        >>> steps = Steps(lambda path: path, lambda source, job: lambda: [])
        >>> list(Pipeline(steps).run([]))
        []
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self._at_work: dict[int, _Case] = {}  # by thread

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[CaseResult, ...]]:
        """Results of each job in their order, one per output; one alone where the case failed."""
        reader, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        waiting = iter(jobs)
        writing: deque[Future[tuple[CaseResult, ...]]] = deque()
        with self._noted():
            try:
                ahead = self._next(reader, waiting)
                while ahead is not None:
                    case, opened = ahead[0], ahead[1].result()
                    ahead = self._next(reader, waiting)
                    while len(writing) > 1:
                        yield writing.popleft().result()
                    write = None if opened is None else self._predicted(case, opened)
                    writing.append(writer.submit(self._written, case, write))
                    # what is written must not live on here while the next case is predicted
                    del opened, write
                while writing:
                    yield writing.popleft().result()
            finally:
                reader.shutdown(cancel_futures=True)
                writer.shutdown()

    def _next(
        self, reader: ThreadPoolExecutor, waiting: Iterator[Job]
    ) -> tuple[_Case, "Future[Source | None]"] | None:
        if (job := next(waiting, None)) is None:
            return None
        case = _Case(job)
        read = self.steps.read
        return case, reader.submit(self._stage, "read", case, lambda: read(job.source))

    def _predicted(self, case: _Case, opened: Source) -> Write | None:
        return self._stage("predict", case, lambda: self.steps.predict(opened, case.job))

    def _written(self, case: _Case, write: Write | None) -> tuple[CaseResult, ...]:
        found = None if write is None else self._stage("write", case, lambda: _hashed(write()))
        source, seconds = str(case.job.source), sum(case.seconds.values())
        shares, notes = case.seconds, tuple(case.notes)
        if found is None:
            return (CaseResult(source, None, "failed", seconds, notes, case.error, None, shares),)
        return tuple(
            CaseResult(source, str(path), "done", seconds, notes, None, sha256, shares)
            for path, sha256 in found
        )

    def _stage(self, name: str, case: _Case, work: Callable[[], T]) -> T | None:
        """Do one stage of a case; None if it failed."""
        start = time.perf_counter()
        self._at_work[get_ident()] = case
        try:
            return work()
        except _FAILURES as error:
            is_ours = isinstance(error, SegkitError)
            case.error = str(error) if is_ours else f"{type(error).__name__}: {error}"
            _log.debug("%s: %s failed", case.job.source, name, exc_info=error)
            return None
        finally:
            del self._at_work[get_ident()]
            case.seconds[name] = time.perf_counter() - start

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Give each warning about data to the case its thread works on."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            show = warnings.showwarning

            def note(message: Warning | str, category: type[Warning], *where: Any) -> None:
                case = self._at_work.get(get_ident())
                if case is not None and issubclass(category, DataWarning):
                    case.notes.append(str(message))
                else:
                    show(message, category, *where)

            warnings.showwarning = note  # type: ignore[assignment]
            yield


def _hashed(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    return [(path, file_sha256(path)) for path in paths]
