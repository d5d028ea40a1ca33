"""The rows of the encoders: what a fresh process is told to do, and where figures go."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_encode, table
from segkit.backbones.sam_modules import TINY

SIDE = 2 * TINY.image_size  # not the size that the model is made for


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Let what would be a fresh process run in this one; returns the ways that ran."""
    ran: list[str] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert words[:3] == [sys.executable, "-m", "benchmarks.bench_encode"]
        bench_encode.main(words[3:])
        ran.append(words[5])
        return subprocess.CompletedProcess(words, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(bench_encode.subprocess, "run", run)
    return ran


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_both_encoders_run_in_processes_of_their_own(processes: list[str]) -> None:
    rows = bench_encode.rows_of(TINY, SIDE, is_full=False)
    assert processes == ["segkit", "peer"]
    assert [row.id for row in rows] == ["C3 small", "C4 small"]
    assert all(row.target is None and row.segkit >= 0 for row in rows)
    assert rows[0].error is not None
    assert rows[0].error < 1e-5


@pytest.mark.parametrize(("words", "name"), [([], "encode_quick"), (["--full"], "encode")])
def test_smaller_sizes_leave_the_full_rows_alone(
    words: list[str], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    monkeypatch.setattr(bench_encode, "rows_of", lambda *_, **__: [])
    monkeypatch.setattr(
        bench_encode, "measured", lambda *_: ({"segkit": [1.0], "peer": [2.0]}, 0.0)
    )
    bench_encode.main(words)
    assert {path.stem for path in tmp_path.iterdir()} == {name}
