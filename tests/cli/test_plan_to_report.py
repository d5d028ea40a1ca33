"""Plan, train, evaluate: three commands and no edited file, on a small copy of each real set."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from segkit.cli.main import main
from segkit.planning import planner
from segkit.planning.dry_step import DryStep, Question

CASES = {"train": 4, "test": 2}
SETS = (
    "3d/Task04_Hippocampus",
    "2d/kvasir_polyp",
    "2d/chase_db1_vessels",
    "2d/hc18_fetal_head",
    "2d/dsb2018_nuclei",
    "video/sunnybrook_cine_lv",
)
QUICK = ("3d/Task04_Hippocampus", "2d/dsb2018_nuclei")


def copy_decathlon(source: Path, target: Path) -> None:
    """The first cases of both splits, with the list of the data set cut to them."""
    told = json.loads((source / "dataset.json").read_text())
    for split, count in (("training", CASES["train"]), ("test", CASES["test"])):
        told[split] = told[split][:count]
        for entry in told[split]:
            for name in entry.values() if isinstance(entry, dict) else [entry]:
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, path)
    (target / "labelsTs").mkdir(exist_ok=True)
    for path in (target / "imagesTs").iterdir():
        shutil.copyfile(source / "labelsTs" / path.name, target / "labelsTs" / path.name)
    (target / "dataset.json").write_text(json.dumps(told))


def copy_patients(source: Path, target: Path) -> None:
    """The first patients of both splits, and their lines of the list."""
    for split, count in CASES.items():
        chosen = sorted(path for path in (source / split).iterdir() if path.is_dir())[:count]
        for patient in chosen:
            shutil.copytree(patient, target / split / patient.name)
        head, *lines = (source / split / "index.csv").read_text().splitlines()
        kept = [line for line in lines if any(patient.name in line for patient in chosen)]
        (target / split / "index.csv").write_text("\n".join([head, *kept]) + "\n")


def copy_folders(source: Path, target: Path) -> None:
    """The first pictures of both splits, with their masks."""
    for split, count in CASES.items():
        for path in sorted((source / split / "images").iterdir())[:count]:
            for folder in (one for one in (source / split).iterdir() if one.is_dir()):
                for match in folder.glob(f"{path.stem}.*"):
                    (target / split / folder.name).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(match, target / split / folder.name / match.name)


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the measured step for granted; its own tests measure it."""

    def answer(question: Question, batches: Sequence[int], limit_mib: float) -> list[DryStep]:
        return [DryStep(batches[0], 500.0, 0.1)]

    monkeypatch.setattr(planner, "measure", answer)


# numbered nuclei become one class, as in the experiment that ships
@pytest.mark.filterwarnings("ignore:.*grey values above 0.5:segkit.errors.DataWarning")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow, id=Path(n).name) for n in SETS],
)
def test_three_commands(
    name: str,
    shared_data: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, data = shared_data(name), tmp_path / Path(name).name
    data.mkdir()
    copy = copy_patients if name.startswith("video") else copy_folders
    (copy_decathlon if name.startswith("3d") else copy)(source, data)
    monkeypatch.chdir(tmp_path)
    root = f"data.root={data}"
    assert main(["plan", str(data), "-o", "mine.yaml"]) == 0
    short = [
        "trainer.limit_train_batches=2",
        "trainer.max_epochs=1",
        "+trainer.limit_val_batches=1",
    ]
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    assert main(["train", "experiment=mine.yaml", root, cache, "run=run", *short]) == 0
    quick = ["settings.limit=1", "settings.robustness.cases=0"]
    assert main(["eval", "run=run", root, *quick]) == 0
    summary = json.loads((tmp_path / "run/eval/test/summary.json").read_text())
    assert {"zero_shot", "adapted"} <= set(summary["rows"])
    text = (tmp_path / "run/eval/test/report.html").read_text()
    assert "cases looked at" in text  # the plan and what it was decided from
