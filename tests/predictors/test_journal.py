"""A run goes on where it was killed, whoever did what, and never with the masks of another run."""

import json
import os
from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.predictors.cohort import CaseResult, CohortReport
from segkit.predictors.journal import Journal
from segkit.predictors.pipeline import Job
from segkit.predictors.shards import Shard


def job(folder: Path, number: int) -> Job:
    return Job(Path(f"in_{number}"), (folder / f"out_{number}",))


def finish(journal: Journal, number: int, status: str = "done") -> CaseResult:
    """Write mask and line of a case."""
    path = journal.folder / f"out_{number}"
    if status == "done":
        path.write_text("mask")
    output = str(path) if status == "done" else None
    case = CaseResult(f"in_{number}", output, status, 1.5, sha256="a" * 64)
    journal.add([case])
    return case


def test_finished_cases_keep_their_facts(tmp_path: Path) -> None:
    finish(Journal(tmp_path, "key", resume=False), 0)
    (found,) = Journal(tmp_path, "key", resume=True).finished(job(tmp_path, 0)) or ()
    assert (found.status, found.seconds, found.sha256) == ("skipped", 1.5, "a" * 64)
    assert Journal(tmp_path, "key", resume=True).finished(job(tmp_path, 1)) is None


def test_a_mask_without_a_line_counts_if_it_is_of_this_run(tmp_path: Path) -> None:
    (tmp_path / "out_1").write_text("of an earlier run")
    os.utime(tmp_path / "out_1", (1e9, 1e9))
    Journal(tmp_path, "key", resume=False)
    (tmp_path / "out_0").write_text("written just before the process was killed")
    again = Journal(tmp_path, "key", resume=True)
    assert again.finished(job(tmp_path, 0)) is not None
    assert again.finished(job(tmp_path, 1)) is None


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    finish(Journal(tmp_path, "key", resume=False), 0)
    with (tmp_path / "run_cases.jsonl").open("a") as file:
        file.write('{"run": "key", "ti')
    again = Journal(tmp_path, "key", resume=True)
    finish(again, 1)
    lines = (tmp_path / "run_cases.jsonl").read_text().splitlines()
    assert [json.loads(line).get("input") for line in lines] == [None, "in_0", None, "in_1"]


def test_masks_of_another_model_are_made_again(tmp_path: Path) -> None:
    finish(Journal(tmp_path, "one", resume=False), 0)
    other = Journal(tmp_path, "two", resume=True)
    assert other.finished(job(tmp_path, 0)) is None
    finish(other, 0)
    assert Journal(tmp_path, "two", resume=True).finished(job(tmp_path, 0)) is not None


def test_a_new_run_forgets_the_old_one(tmp_path: Path) -> None:
    finish(Journal(tmp_path, "key", resume=False), 0)
    for path in tmp_path.glob("out_*"):
        os.utime(path, (1e9, 1e9))
    Journal(tmp_path, "key", resume=False)
    assert Journal(tmp_path, "key", resume=True).finished(job(tmp_path, 0)) is None


def test_the_report_holds_the_cases_of_all_processes(tmp_path: Path) -> None:
    parts = [Journal(tmp_path, "key", resume=False, shard=Shard(i, 2)) for i in (0, 1)]
    first = [finish(parts[0], 0), finish(parts[0], 2)]
    second = [finish(parts[1], 1, "failed")]
    for journal, cases in zip(parts, (first, second), strict=True):
        journal.report(CohortReport("m", "", "cpu", tuple(cases), 3))
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert [case["status"] for case in report["cases"]] == ["done", "failed", "done"]
    assert (report["inputs"], report["failed"]) == (3, 1)
    # another number of processes goes on with it
    alone = Journal(tmp_path, "key", resume=True)
    assert [alone.finished(job(tmp_path, n)) is None for n in range(3)] == [False, True, False]
    again = [finish(alone, 1)]
    whole = alone.report(CohortReport("m", "", "cpu", tuple(again), 3))
    assert [case.status for case in whole.cases] == ["done", "done", "done"]


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "run_cases.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match=r"run_cases\.jsonl: this is no list of finished cases"):
        Journal(tmp_path, "key", resume=True)
