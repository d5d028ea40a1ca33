"""Three stages side by side: order, overlap, bounded memory, and failures that end nothing."""

import gc
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segkit.data.volume import Picture
from segkit.errors import DataWarning, InputError
from segkit.predictors.cohort import CaseResult
from segkit.predictors.pipeline import Job, Pipeline, Source, Steps, Write

PAUSE_S = 0.05


def jobs(folder: Path, count: int) -> list[Job]:
    return [Job(folder / f"in_{i}", (folder / f"out_{i}",)) for i in range(count)]


def picture(path: Path) -> Picture:
    return Picture(np.zeros((2, 2), np.uint8), path=path)


def writes(job: Job, before: Callable[[], None] = lambda: None) -> Write:
    def write() -> tuple[Path, ...]:
        before()
        for path in job.outputs:
            path.write_text(job.source.name)
        return job.outputs

    return write


def run(steps: Steps, todo: list[Job]) -> list[CaseResult]:
    return [case for done in Pipeline(steps).run(todo) for case in done]


def test_stages_overlap_and_results_keep_their_order(tmp_path: Path) -> None:
    def read(path: Path) -> Source:
        time.sleep(PAUSE_S)
        return picture(path)

    def predict(source: Source, job: Job) -> Write:
        time.sleep(PAUSE_S)
        return writes(job, lambda: time.sleep(PAUSE_S))

    start = time.perf_counter()
    found = run(Steps(read, predict), jobs(tmp_path, 8))
    wall = time.perf_counter() - start
    assert [Path(case.input).name for case in found] == [f"in_{i}" for i in range(8)]
    assert {case.status for case in found} == {"done"}
    spent = sum(case.seconds for case in found)
    assert spent >= 24 * PAUSE_S
    assert wall < 0.75 * spent
    assert set(found[0].stages) == {"read", "predict", "write"}
    assert len(found[0].sha256 or "") == 64


def test_no_more_than_three_cases_are_in_memory(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    most = 0

    class Image(Picture):
        __slots__ = ("__weakref__",)

    def read(path: Path) -> Source:
        nonlocal most
        gc.collect()
        one = Image(np.zeros((2, 2), np.uint8), path=path)
        alive.add(one)
        most = max(most, len(alive))
        return one

    def predict(source: Source, job: Job) -> Write:
        # the writer holds on to what it writes
        return writes(job, lambda: time.sleep(0.01 * bool(source.path)))

    assert len(run(Steps(read, predict), jobs(tmp_path, 20))) == 20
    assert 2 <= most <= 4  # one read ahead, one predicted, one or two on their way to the disk


@pytest.mark.parametrize("stage", ["read", "predict", "write"])
@pytest.mark.parametrize("error", [InputError("no scan"), RuntimeError("out of memory")])
def test_a_case_that_fails_is_a_result(tmp_path: Path, stage: str, error: Exception) -> None:
    def fail_at(where: str, name: str) -> None:
        if where == stage and name == "in_1":
            raise error

    def read(path: Path) -> Source:
        fail_at("read", path.name)
        return picture(path)

    def predict(source: Source, job: Job) -> Write:
        fail_at("predict", job.source.name)
        return writes(job, lambda: fail_at("write", job.source.name))

    found = run(Steps(read, predict), jobs(tmp_path, 3))
    assert [case.status for case in found] == ["done", "failed", "done"]
    expected = "no scan" if isinstance(error, InputError) else "RuntimeError: out of memory"
    assert (found[1].error, found[1].output, found[1].sha256) == (expected, None, None)


def test_warnings_belong_to_the_case_they_are_about(tmp_path: Path) -> None:
    names: set[str] = set()

    def warn(text: str) -> None:
        names.add(threading.current_thread().name)
        warnings.warn(text, DataWarning, stacklevel=2)

    def read(path: Path) -> Source:
        warn(f"read {path.name}")
        return picture(path)

    def predict(source: Source, job: Job) -> Write:
        warn(f"predict {job.source.name}")
        return writes(job, lambda: warn(f"write {job.source.name}"))

    found = run(Steps(read, predict), jobs(tmp_path, 5))
    for number, case in enumerate(found):
        assert case.notes == tuple(f"{what} in_{number}" for what in ("read", "predict", "write"))
    assert len(names) == 3


def test_an_error_of_ours_ends_the_run(tmp_path: Path) -> None:
    def predict(source: Source, job: Job) -> Write:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Steps(picture, predict), jobs(tmp_path, 3))
