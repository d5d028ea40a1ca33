"""Every row of the GPU tables of whole models, at tiny sizes on the CPU."""

import pytest
import torch

from benchmarks import bench_gpu, gpu, gpu_race
from benchmarks.gpu_race import Bench, Race

INSIDE = {"EN6": "EN1", "EN7": "EN1", "CK3": "CK2"}
"""Rows that are columns or contenders of another one."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAM_FAST", raising=False)


@pytest.mark.parametrize("page", bench_gpu.PAGES)
def test_ours_is_right_and_timed_in_a_dry_run(page: str) -> None:
    rows = list(bench_gpu.rows(Bench.dry(), page))
    ours = [row for row in rows if row["contender"] == "segkit"]
    assert all(row.get("median ms") != gpu.NOT_RUN for row in ours), ours
    assert all(row["off by"] < 1e-3 for row in ours if "off by" in row)
    named = {INSIDE.get(row, row) for row, *_ in bench_gpu.ROWS if row.startswith(page)}
    assert {row["row"] for row in ours} == named


def race(**calls: gpu_race.Call) -> Race:
    return Race("R", "doubling", calls, torch.full((4,), 2.0), ">= 1x", count=8)


def test_a_wrong_contender_is_not_timed() -> None:
    wrong, nan = torch.ones(4), torch.full((4,), torch.nan)
    rows = gpu_race.run(
        race(segkit=lambda _: torch.full((4,), 2.0), wrong=lambda _: wrong, nan=lambda _: nan),
        Bench.dry(),
    )
    found = {row["contender"]: row for row in rows}
    assert found["segkit"]["rate"] == pytest.approx(8e3 / found["segkit"]["median ms"])
    assert found["wrong"]["note"].startswith("wrong by 5.0e-01")
    assert {found[name]["median ms"] for name in ("wrong", "nan")} == {gpu.NOT_RUN}


def test_a_contender_that_fails_is_a_row_with_its_reason() -> None:
    def broken(_: int) -> torch.Tensor:
        raise RuntimeError("no such operator")

    (row,) = gpu_race.run(race(segkit=broken), Bench.dry())
    assert row["note"] == "RuntimeError: no such operator"
