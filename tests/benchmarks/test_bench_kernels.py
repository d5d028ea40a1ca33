"""The harness of the kernel table, at tiny sizes on the CPU."""

import pytest
import torch

pytest.importorskip("triton", reason="extra [triton]")

from benchmarks import bench_kernels, gpu, kernel_cases
from benchmarks.gpu import Anchors, Case, Result, contest, rows_of
from segkit.kernels import dilated

CPU = torch.device("cpu")
DRY = kernel_cases.Setting(CPU, torch.float32, is_dry=True)


def case(**contenders: gpu.Call) -> Case:
    x = torch.linspace(-1, 1, 8)
    return Case(
        "K0",
        "doubling",
        [x],
        contenders,
        lambda x: 2 * x,
        ">= 1x",
        n_bytes=1e9,
        absent={"gone": "no"},
    )


def checked(rows: list[gpu.Row]) -> set[object]:
    """Rows in which ours is right and timed, and nobody but authors is missing."""
    ours = [row for row in rows if row["contender"] == "segkit" and row["row"] != "K3"]
    assert all(row["median ms"] > 0 and row["error"] < 1e-3 for row in ours), ours
    missing = {row["contender"] for row in rows if row.get("median ms") == gpu.NOT_RUN}
    assert missing <= {"authors"}
    return {row["row"] for row in rows}


@pytest.mark.parametrize("row", ["K3", "K6"])
def test_a_dry_run_of_a_row(row: str) -> None:
    assert checked(list(bench_kernels.run(DRY, row, rounds=2))) == {row}


@pytest.mark.slow
def test_every_row_is_right_and_timed_in_a_dry_run() -> None:
    rows = list(bench_kernels.run(DRY, "", rounds=2))
    assert checked(rows) == {row for row, *_ in bench_kernels.ROWS}


def test_a_wrong_contender_gets_no_ratio() -> None:
    found = contest(case(segkit=lambda x: x + x, wrong=lambda x: x), CPU, rounds=3)
    assert found["wrong"].problem.startswith("wrong by")
    rows = rows_of(case(), found, Anchors(1e12, 1e12))
    assert [row["median ms"] for row in rows if row["contender"] in ("wrong", "gone")] == [
        gpu.NOT_RUN
    ] * 2


def test_a_contender_that_fails_is_a_row_with_its_reason() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such instruction")

    found = contest(case(segkit=lambda x: x + x, broken=broken), CPU, rounds=3)
    assert found["broken"].problem == "RuntimeError: no such instruction"


def test_the_floor_stands_beside_the_time() -> None:
    rows = rows_of(
        case(), {"segkit": Result((4.0,) * 5), "eager": Result((8.0,) * 5)}, Anchors(1e12, 1)
    )
    assert rows[0]["floor ms"] == pytest.approx(1.0)
    assert rows[0]["floor / segkit"] == pytest.approx(0.25)
    assert rows[1]["peer / segkit"] == pytest.approx(2.0)


def test_the_bottleneck_keeps_a_quarter_of_what_torch_keeps() -> None:
    inputs = kernel_cases.dilated_inputs(DRY, 1, 16, 32)
    usual = kernel_cases.saved_bytes(kernel_cases.dilated_call(dilated.reference), inputs)
    fused = kernel_cases.dilated_call(dilated.dilated_bottleneck, impl="triton")
    assert kernel_cases.saved_bytes(fused, inputs) <= 0.25 * usual


def test_without_a_gpu_rows_name_the_command() -> None:
    rows = gpu.absent_rows(bench_kernels.ROWS, bench_kernels.COMMAND)
    assert {row["median ms"] for row in rows} == {gpu.NOT_RUN}
    assert all(bench_kernels.COMMAND in str(row["note"]) for row in rows)
