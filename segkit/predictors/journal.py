"""What a cohort run has finished, line by line, so that a killed run can go on.

Every process of a run appends to a file of its own and reads those of the others.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segkit.data.atomic import atomic_file
from segkit.errors import InputError
from segkit.predictors.cohort import CaseResult, CohortReport
from segkit.predictors.pipeline import Job
from segkit.predictors.shards import Shard

REPORT = "run_report.json"
_WHOLE = Shard()


@dataclass(frozen=True, slots=True)
class _Line:
    """Start of a process (`result` is None), or the end of a case."""

    run: str
    time: str
    result: CaseResult | None


class Journal:
    """The finished cases of a run in a folder; `key` names model and settings.

    A run that is not resumed forgets what was there before. Masks of another model or of other
    settings never count as finished.
    """

    def __init__(self, folder: Path, key: str, *, resume: bool, shard: Shard = _WHOLE) -> None:
        self.folder, self.key = folder, key
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"run_cases{shard.suffix}.jsonl"
        if not resume:
            self._forget(shard)
        _end_with_a_line(self._path)
        lines = list(self._lines())
        self._has_history = bool(lines)
        self._starts = [one.time for one in lines if one.result is None and one.run == key]
        self._last = {self._place(one.result.output): one for one in lines if one.result}
        self._append([{"run": key, "time": _now()}])

    def finished(self, job: Job) -> tuple[CaseResult, ...] | None:
        """Results of a job whose masks are all there already; None if it is to be done."""
        found = [self._skipped(job, path) for path in job.outputs]
        return None if None in found else tuple(one for one in found if one)

    def add(self, results: Sequence[CaseResult]) -> None:
        """Write down what became of one job."""
        self._append([{"run": self.key, "time": _now(), **asdict(one)} for one in results])

    def report(self, report: CohortReport) -> CohortReport:
        """Write `run_report.json` with the cases of all processes; those of `report` come first.

        The process that ends last writes last: each looks again after it has written.
        """
        while True:
            whole = replace(report, cases=self._merged(report.cases))
            with atomic_file(self.folder / REPORT) as file:
                file.write((json.dumps(whole.to_dict(), indent=2) + "\n").encode())
            if self._merged(report.cases) == whole.cases:
                return whole

    def _skipped(self, job: Job, path: Path) -> CaseResult | None:
        """Result of a mask that is there and of this run."""
        if not path.exists():
            return None
        if (line := self._last.get(self._place(str(path)))) is not None and line.result:
            return replace(line.result, status="skipped") if line.run == self.key else None
        # the process was killed between the mask and its line, or the folder knows no lines
        written = _text(datetime.fromtimestamp(path.stat().st_mtime, UTC))
        is_of_this_run = any(start <= written for start in self._starts)
        if self._has_history and not is_of_this_run:
            return None
        return CaseResult(str(job.source), str(path), "skipped")

    def _merged(self, own: Sequence[CaseResult]) -> tuple[CaseResult, ...]:
        """Cases by input: of this process as they are, of the others as they wrote last."""
        lines = sorted(self._lines(), key=lambda one: one.time)
        others = [one.result for one in lines if one.result and one.run == self.key]
        latest: dict[tuple[str, str | None], CaseResult] = {}
        for case in (*others, *own):
            latest.pop((case.input, None), None)
            if case.status == "failed":
                latest = {key: one for key, one in latest.items() if key[0] != case.input}
            latest[case.input, case.output] = case
        return tuple(sorted(latest.values(), key=lambda one: (one.input, one.output or "")))

    def _place(self, output: str | None) -> str:
        """An output by where it lies in the folder, wherever the folder lies."""
        return "" if output is None else os.path.relpath(output, self.folder)

    def _forget(self, shard: Shard) -> None:
        """Remove the lines of earlier runs, but not those of processes beside this one."""
        for path in self._files():
            beside = shard.count > 1 and path.stem.endswith(f"-of-{shard.count}")
            if path == self._path or not beside:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("run_cases*.jsonl"))

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(line)}\n" for line in lines))

    def _lines(self) -> Iterator[_Line]:
        for path in self._files():
            for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
                # a process may be killed while it writes, or be writing now
                if text.endswith("\n"):
                    yield _read(text, path)


def _read(text: str, path: Path) -> _Line:
    try:
        told: dict[str, Any] = dict(json.loads(text))
        names = {one.name for one in fields(CaseResult)}
        found = {name: told[name] for name in names & told.keys()}
        if found:
            found["notes"] = tuple(found["notes"])
        return _Line(told["run"], told["time"], CaseResult(**found) if found else None)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "this is no list of finished cases", path=path, fix="remove it; masks stay valid"
        ) from error


def _end_with_a_line(path: Path) -> None:
    """Drop half a line, which a killed process left."""
    if path.is_file():
        before, end, _ = path.read_bytes().rpartition(b"\n")
        os.truncate(path, len(before) + len(end))


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
