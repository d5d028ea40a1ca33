"""The book names commands that exist."""

import ast
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import bench_gpu, run
from benchmarks.misses import explained
from benchmarks.rows import Row

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *(f"python -m {command}" for command in run.CPU),
    *(command for _, command in run.GPU.values()),
    *(command for *_, command in bench_gpu.ELSEWHERE),
]


def flags_of(module: str) -> set[str]:
    """Flags that a module's parser is given, read from its source."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"{module} does not exist"
    assert spec.origin is not None
    calls = (
        node
        for node in ast.walk(ast.parse(Path(spec.origin).read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
    )
    return {arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_named_command_exists_and_takes_its_flags(command: str) -> None:
    words = command.split()
    if words[0] == "bash":
        assert (ROOT / words[1]).is_file()
        return
    assert words[:2] == ["python", "-m"]
    given = {word for word in words[3:] if word.startswith("-")}
    assert given <= flags_of(words[2])


def test_a_command_of_the_gpu_script_takes_its_flags() -> None:
    lines = (ROOT / "benchmarks" / "gpu.sh").read_text().splitlines()
    named = [line.split("python -m ")[1].split() for line in lines if "-m benchmarks." in line]
    assert [words[0] for words in named] == ["benchmarks.bench_kernels", "benchmarks.bench_gpu"]
    for module, *words in named:
        assert {word for word in words if word.startswith("-")} <= flags_of(module)


def test_the_book_has_every_row_of_the_gpu_tables() -> None:
    rows = {str(row["row"]) for row in run.book()}
    assert set(run.GPU) <= rows
    assert not {row for row in rows if row.startswith("VL")} - set(run.GPU)


def test_the_book_says_why_a_row_misses() -> None:
    """Of the figures that are committed: who measures a new miss explains it."""
    missed = [row for row in run.book() if row.get("met") == "no"]
    assert all(row["next step"] for row in missed)
    unknown = [row["case"] for row in missed if row["why it misses"] == "not known yet"]
    assert not unknown


def test_a_miss_nobody_explained_says_so() -> None:
    row = explained({"row": "C1", "case": "a click", "met": "no"})
    assert row["why it misses"] == "not known yet"
    assert "why it misses" not in explained({"row": "C8", "case": "dilated adapter", "met": "yes"})


def test_shares_of_video_are_compared_as_numbers() -> None:
    rows = {str(row["row"]): row for row in run.video()}
    assert set(rows) == {"C5", "C6", "C7"}
    assert all(row["met"] in ("yes", "not run") for row in rows.values())
    assert run._share("1/128") < run._share("<= 1/50") < run._share("0.7")


def test_a_row_may_have_a_limit_in_place_of_a_ratio() -> None:
    row = Row("C11", "an import", 1.5, 10.0, "s CPU", None, limit=2.0)
    assert row.is_met
    assert row.cells()["target"] == "<= 2 s CPU"
    assert not replace(row, segkit=2.5).is_met
