"""From a run folder and a data set to the files of the contract."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data.preprocess import InputSpec
from segkit.data.splits import SplitSpec
from segkit.errors import InputError
from segkit.evaluation import (
    EvaluationSettings,
    OracleProtocol,
    Resampling,
    RobustnessPlan,
    Scoring,
    evaluate,
)
from segkit.models import build
from segkit.models.files import load_adapter, save_adapter
from segkit.models.info import ModelInfo

PLAN = RobustnessPlan(cases=1, jitter=(0.0, 0.2), clicks=(1, 2))
SCORING = Scoring(resampling=Resampling(resamples=200))
SETTINGS = EvaluationSettings(scoring=SCORING, robustness=PLAN)
QUICK = replace(SETTINGS, baselines=())


@pytest.fixture(scope="module")
def automatic(make_run: Callable[[bool], Path], data_root: Path) -> Path:
    run = make_run(True)
    (run / "metrics.csv").write_text("step,train/loss,val/dice\n0,0.9,\n10,0.5,0.4\n20,0.4,0.6\n")
    evaluate(run, data_root, settings=SETTINGS)
    return run / "eval" / "test"


def test_files_of_the_contract(automatic: Path) -> None:
    assert {path.name for path in automatic.iterdir()} == {
        "summary.json",
        "cases.csv",
        "comparison.csv",
        "report.html",
        "figures",
    }
    names = {path.stem for path in (automatic / "figures").iterdir()}
    assert names >= {"distributions", "example_best", "example_worst", "learning_curves"}
    for path in (automatic / "figures").iterdir():
        assert np.asarray(Image.open(path)).std() > 1, path.name


def test_clicks_into_volumes_are_in_all_files(data_root: Path, tmp_path: Path) -> None:
    segmenter = build.sam3d_tiny()
    spec = InputSpec(channels="repeat", patch=(8, 28, 20))
    info = ModelInfo.of(segmenter, labels={1: "front", 2: "back"}, input=spec)
    save_adapter(tmp_path / "adapter.safetensors", segmenter, info)
    plan = RobustnessPlan(cases=1, jitter=(0.0,), clicks=(1, 2))
    protocol = OracleProtocol("clicks", counts=(1, 2))
    settings = replace(QUICK, robustness=plan, protocol=protocol, limit=5)
    found = evaluate(tmp_path, data_root, settings=settings)
    folder = tmp_path / "eval" / "test"
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["rows"]) == ["adapted", "adapted_2_clicks"]
    assert summary["rows"]["adapted_2_clicks"]["mean"]["dice"]["ci95"][0] is not None
    # the last case has no target: nothing is clicked, and nothing found
    clicks = summary["interactions"]["adapted"]
    assert (clicks["objects"], clicks["clicks_allowed"], clicks["seed"]) == (8, 2, 0)
    assert set(clicks["clicks_to_dice"]) == {"0.8", "0.85", "0.9"}
    assert found.table.of("adapted")[-1].metrics.flags == ("both_empty",)
    lines = list(csv.DictReader((folder / "clicks.csv").read_text().splitlines()))
    assert {line["number"] for line in lines} == {"1", "2"}
    assert {line["case"] for line in lines} <= {f"case_{n:03d}" for n in range(7, 11)}
    page = (folder / "report.html").read_text()
    assert "Clicks in volumes" in page
    assert "Adapted, 2 clicks" in page
    assert summary["robustness"]["clicks"]["x"] == [1, 2]


def test_summary_follows_the_contract(automatic: Path) -> None:
    summary = json.loads((automatic / "summary.json").read_text())
    assert (summary["format"], summary["split"], summary["cases"]) == (1, "test", 5)
    assert summary["model"] == "sam_tiny"
    assert "at 1 mm" in summary["definitions"]["nsd"]
    assert set(summary["rows"]) == {"zero_shot", "adapted", "box_ellipse", "location_prior"}
    assert summary["classes"] == summary["rows"]["adapted"]["classes"]
    assert summary["mean"] == summary["rows"]["adapted"]["mean"]
    for entry in (*summary["classes"].values(), summary["mean"]):
        for figure in ("dice", "nsd", "hd95_mm"):
            low, high = entry[figure]["ci95"]
            assert low <= entry[figure]["mean"] <= high
            assert "median" in entry[figure]
    assert [entry["name"] for entry in summary["classes"].values()] == ["front", "back"]
    assert summary["rows"]["zero_shot"]["is_oracle"]
    assert summary["prompt"]["adapted"] == "none (automatic)"
    assert set(summary["timing"]) == {"seconds_per_case", "total_seconds", "peak_memory_mb"}
    assert "adapted - zero_shot" in summary["differences"]


def test_baselines_beat_an_untrained_model(automatic: Path) -> None:
    rows = json.loads((automatic / "summary.json").read_text())["rows"]
    dice = {name: row["mean"]["dice"]["mean"] for name, row in rows.items()}
    assert dice["box_ellipse"] > 0.7 > dice["adapted"]
    assert dice["location_prior"] > dice["adapted"]


def test_cases_csv_has_one_line_per_case_and_class(automatic: Path) -> None:
    with (automatic / "cases.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * 2
    assert {line["case"] for line in lines} == {f"case_{number:03d}" for number in range(7, 12)}
    flags = {line["flags"] for line in lines if line["case"] == "case_011"}
    assert flags <= {"both_empty", "empty_reference"}
    assert "" not in flags
    assert not any("nan" in value for line in lines for value in line.values())


def test_report_stands_alone_and_names_no_folder(automatic: Path, data_root: Path) -> None:
    page = (automatic / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") >= 2 * 4
    assert "oracle prompt" in page
    assert "prefers-color-scheme" in page
    for path in automatic.iterdir():
        if path.is_file():
            assert str(data_root.parent) not in path.read_text(), path.name


def test_names_can_be_hidden_everywhere(make_run: Callable[[bool], Path], data_root: Path) -> None:
    run = make_run(True)
    evaluate(run, data_root, settings=replace(QUICK, case_names="hash", limit=1))
    for path in (run / "eval" / "test").iterdir():
        if path.is_file():
            assert "case_0" not in path.read_text(), path.name


def test_interactive_run_has_robustness_curves(
    make_run: Callable[[bool], Path], data_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "elsewhere"
    found = evaluate(make_run(False), data_root, settings=replace(SETTINGS, limit=2), out=out)
    assert found.folder == out
    assert set(found.summary["rows"]) == {"zero_shot", "adapted", "box_ellipse"}
    # untrained and without adapter, the two models are one
    assert found.summary["differences"]["adapted - zero_shot"]["dice"]["mean"] == 0
    assert found.summary["robustness"]["clicks"]["x"] == [1, 2]
    assert (out / "figures" / "robustness.png").is_file()
    assert "Robustness to prompts" in (out / "report.html").read_text()


def test_bare_model_writes_only_where_asked(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    found = evaluate("sam_tiny", data_root, settings=replace(SETTINGS, limit=1))
    assert list(found.summary["rows"]) == ["zero_shot", "box_ellipse"]
    assert found.summary["headline"] == "zero_shot"
    assert found.folder is None
    assert set(tmp_path.rglob("*")) == before


def test_validation_split_is_that_of_training(
    make_run: Callable[[bool], Path], data_root: Path
) -> None:
    found = evaluate(
        make_run(True) / "adapter.safetensors",
        data_root,
        split="val",
        splits=SplitSpec(fraction=0.34),
        settings=QUICK,
    )
    assert (found.summary["cases"], found.folder) == (2, None)


def test_progress_ends_at_all(make_run: Callable[[bool], Path], data_root: Path) -> None:
    seen: list[tuple[int, int]] = []
    settings = replace(QUICK, limit=2)
    evaluate(
        make_run(True) / "adapter.safetensors",
        data_root,
        settings=settings,
        progress=lambda *step: seen.append(step),
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_the_same_run_gives_the_same_figures(
    make_run: Callable[[bool], Path], data_root: Path
) -> None:
    adapter = make_run(False) / "adapter.safetensors"
    settings = replace(SETTINGS, limit=1)
    first, second = (evaluate(adapter, data_root, settings=settings) for _ in range(2))
    for key in ("rows", "robustness", "differences"):
        assert first.summary[key] == second.summary[key]


def test_other_classes_are_refused(
    make_run: Callable[[bool], Path], data_root: Path, tmp_path: Path
) -> None:
    segmenter, info = load_adapter(make_run(True) / "adapter.safetensors")
    other = tmp_path / "other.safetensors"
    save_adapter(other, segmenter, replace(info, labels={1: "liver"}))
    with pytest.raises(InputError, match=r"the classes of the data set are .*of the model .*liver"):
        evaluate(other, data_root)
