"""Rows of a benchmark, written as JSON, CSV and Markdown."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.environment import describe, one_line

RESULTS = Path(__file__).parent / "results"
Row = Mapping[str, object]


def write(
    name: str,
    title: str,
    rows: Sequence[Row],
    *,
    notes: str = "",
    raw: Mapping[str, object] | None = None,
) -> Path:
    """Write `results/NAME.{json,csv,md}`; returns the Markdown file.

    `raw` are single samples, for the JSON file alone.
    """
    facts = describe()
    RESULTS.mkdir(exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    document = {"title": title, "environment": facts, "notes": notes, "rows": list(rows)}
    if raw:
        document["raw"] = dict(raw)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    lines = [f"# {title}", "", one_line(facts), ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
    if notes:
        lines += ["", notes]
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)
