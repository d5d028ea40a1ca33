"""One table from the folds of a cross-validation: every case by the model that did not see it."""

from collections.abc import Sequence
from pathlib import Path

from segkit.errors import InputError
from segkit.evaluation.results import write_tables
from segkit.evaluation.runner import Evaluation
from segkit.evaluation.scores import ScoreTable
from segkit.evaluation.statistics import Resampling


def merge(
    folds: Sequence[Evaluation], folder: Path, resampling: Resampling | None = None
) -> Evaluation:
    """Put the cases of all folds into one table and write it to `folder`.

    Intervals are bootstrapped over the subjects of all folds; `folds` in the summary keeps the mean
    Dice of each. What concerns pixels (calibration) stays with the folds.

    Raises:
        InputError: The folds have different rows or classes, or a case is in two of them.
    """
    first = folds[0]
    resampling = resampling or Resampling(
        **{
            name: first.summary["bootstrap"][name]
            for name in ("resamples", "level", "method", "seed")
        }
    )
    for other in folds[1:]:
        if (other.table.rows, other.table.labels) != (first.table.rows, first.table.labels):
            raise InputError(
                f"folds have rows {first.table.rows} and {other.table.rows}",
                fix="evaluate all of them with the same settings",
            )
    headline = first.summary["headline"]
    names = [case for fold in folds for case in fold.table.case_means(headline, "dice")]
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"case {twins[0]!r} is in the validation of several folds")
    table = ScoreTable([score for fold in folds for score in fold.table.scores], first.table.labels)
    summary = _summary(folds, table, resampling)
    write_tables(folder, summary, table)
    return Evaluation(summary, table, folder)


def _summary(
    folds: Sequence[Evaluation], table: ScoreTable, resampling: Resampling
) -> dict[str, object]:
    told = folds[0].summary
    headline = told["headline"]
    rows = {
        name: {**told["rows"][name], **table.summarise(name, resampling)} for name in table.rows
    }
    for row in rows.values():
        row.pop("calibration", None)
    shared = ("format", "model", "split", "definitions", "unit", "tolerance", "headline", "prompt")
    return {
        **{name: told[name] for name in shared},
        "cases": len(table.case_means(headline, "dice")),
        "bootstrap": {**told["bootstrap"], "subjects": len(set(table.groups(headline)))},
        "classes": rows[headline]["classes"],
        "mean": rows[headline]["mean"],
        "rows": rows,
        "differences": {
            f"{headline} - {name}": table.compare(headline, name, resampling)
            for name in table.rows
            if name != headline
        },
        "folds": [
            {"cases": fold.summary["cases"], "dice": fold.summary["mean"]["dice"]["mean"]}
            for fold in folds
        ],
    }
