"""Tables of scores: nothing dropped, nothing NaN, one line per case and class."""

import csv
import io

import pytest

from segkit.evaluation.scores import COLUMNS, Score, ScoreTable
from segkit.evaluation.statistics import Resampling
from segkit.metrics import CaseMetrics

QUICK = Resampling(resamples=200)


def score(row: str, case: str, value: int, dice: float, flag: str = "") -> Score:
    flags = (flag,) if flag else ()
    metrics = CaseMetrics(dice, dice, dice, 10 * (1 - dice), 1 - dice, 100, 90, flags)
    return Score(row, case, f"subject {case[0]}", value, metrics)


@pytest.fixture
def table() -> ScoreTable:
    scores = [
        score("zero_shot", "a1", 1, 0.5),
        score("zero_shot", "a1", 2, 0.3),
        score("adapted", "a1", 1, 0.9),
        score("adapted", "a1", 2, 0.7),
        score("zero_shot", "b1", 1, 0.6),
        score("zero_shot", "b1", 2, 0.0, "empty_prediction"),
        score("adapted", "b1", 1, 0.8),
        score("adapted", "b1", 2, 1.0, "both_empty"),
    ]
    return ScoreTable(scores, {1: "front", 2: "back"})


def test_rows_keep_their_order(table: ScoreTable) -> None:
    assert table.rows == ("zero_shot", "adapted")


def test_mean_is_over_classes_first_and_cases_second(table: ScoreTable) -> None:
    assert table.case_means("adapted", "dice") == pytest.approx({"a1": 0.8, "b1": 0.9})
    mean = table.summarise("adapted", QUICK)["mean"]
    assert mean["dice"]["mean"] == pytest.approx(0.85)
    assert mean["dice"]["ci95"] == pytest.approx([0.8, 0.9])


def test_class_entries_count_their_flags(table: ScoreTable) -> None:
    entry = table.summarise("adapted", QUICK)["classes"]["2"]
    assert entry["name"] == "back"
    assert entry["dice"]["mean"] == pytest.approx(0.85)
    assert entry["flags"] == {"both_empty": 1}
    assert entry["dice_without_both_empty"] == pytest.approx(0.7)


def test_missed_objects_count_as_zero(table: ScoreTable) -> None:
    entry = table.summarise("zero_shot", QUICK)["classes"]["2"]
    assert entry["dice"]["mean"] == pytest.approx(0.15)
    assert entry["flags"] == {"empty_prediction": 1}


def test_comparison_is_paired(table: ScoreTable) -> None:
    gain = table.compare("adapted", "zero_shot", QUICK)["dice"]
    assert gain["mean"] == pytest.approx(0.5)
    assert gain["subjects"] == 2


def test_csv_has_one_line_per_case_and_class(table: ScoreTable) -> None:
    lines = list(csv.DictReader(io.StringIO(table.to_csv("adapted"))))
    assert tuple(lines[0]) == COLUMNS
    assert [(line["case"], line["class"], line["label"]) for line in lines] == [
        ("a1", "1", "front"),
        ("a1", "2", "back"),
        ("b1", "1", "front"),
        ("b1", "2", "back"),
    ]
    assert lines[3]["flags"] == "both_empty"
    assert float(lines[0]["dice"]) == 0.9


def test_csv_of_all_rows_names_the_row(table: ScoreTable) -> None:
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(lines) == 8
    assert {line["row"] for line in lines} == {"zero_shot", "adapted"}
