"""A folder of 200 small volumes: killed in the middle and resumed, and shared by two processes.

Run: python -m benchmarks.bench_cohort_resume [--cases 200]

Volumes and model are those of `bench_cohort`. A first run is left alone; a second is killed
(SIGKILL) after half of its cases and resumed by the same command with `--resume`; a third is two
processes under torchrun. Masks are compared byte by byte, and by their time of change: a case that
was done twice would have a new one. Writes `results/cohort_resume.{json,csv,md}`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import table
from benchmarks.bench_cohort import write_cases, write_model

JOURNAL, REPORT = "run_cases.jsonl", "run_report.json"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TWICE = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def main() -> None:
    """Run three times and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cases(folder / "cases", args.cases)
        model = write_model(folder / "model.safetensors")

        def words(out: str) -> list[str]:
            given = [folder / "cases", "-m", model, "-o", folder / out, "--device", "cpu"]
            return ["-m", "segkit.cli.main", "predict", *map(str, given)]

        subprocess.run([sys.executable, *words("alone")], env=ENVIRONMENT, check=True)
        rows = [
            row("one process", folder / "alone", folder / "alone"),
            interrupted(words, folder, args.cases // 2),
        ]
        subprocess.run([*TWICE, *words("two")], env=ENVIRONMENT, check=True)
        rows.append(row("two processes", folder / "two", folder / "alone"))
    notes = (
        f"{args.cases} generated volumes. Equal: masks with the same bytes as in the run that "
        "nothing disturbed. Redone: masks of before the kill that were written again. Lost: inputs "
        "without a mask or without an entry in run_report.json. The kill is SIGKILL."
    )
    title = "A cohort that is killed and resumed, or shared by two processes"
    print(table.write("cohort_resume", title, rows, notes=notes).read_text())


def interrupted(words: Callable[[str], Sequence[str]], folder: Path, after: int) -> dict:
    """Kill a run once `after` cases are in its list, resume it, and see what became of them."""
    out = folder / "killed"
    process = subprocess.Popen([sys.executable, *words("killed")], env=ENVIRONMENT)
    # the first line names the run
    while lines_of(out / JOURNAL) < after + 1:
        if process.poll() is not None:
            raise SystemExit("the run ended before it could be killed")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    subprocess.run([sys.executable, *words("killed"), "--resume"], env=ENVIRONMENT, check=True)
    redone = sum(path.stat().st_mtime_ns != changed for path, changed in before.items())
    return row(f"killed with {len(before)} masks, resumed", out, folder / "alone", redone)


def row(name: str, out: Path, reference: Path, redone: int | None = None) -> dict[str, object]:
    """Compare the masks of a run with those of the undisturbed one."""
    expected = {path.name: path.read_bytes() for path in reference.glob("*.nii.gz")}
    found = {path.name: path.read_bytes() for path in out.glob("*.nii.gz")}
    told = json.loads((out / REPORT).read_text())
    status = [case["status"] for case in told["cases"]]
    missing = max(told["inputs"] - len(found), told["inputs"] - len(status))
    return {
        "run": name,
        "cases": told["inputs"],
        "equal": sum(found.get(key) == value for key, value in expected.items()),
        "redone": redone,
        "lost": missing,
        "done": status.count("done"),
        "skipped": status.count("skipped"),
        "failed": told["failed"],
    }


def lines_of(path: Path) -> int:
    """Lines of a file that another process writes; none as long as it does not exist."""
    return len(path.read_bytes().splitlines()) if path.exists() else 0


if __name__ == "__main__":
    main()
