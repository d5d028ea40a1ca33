"""The files of an evaluation: each appears whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.evaluation.interactions import Diary, to_csv
from segkit.evaluation.scores import ScoreTable


def write_tables(
    folder: Path,
    summary: Mapping[str, Any],
    table: ScoreTable,
    diaries: Mapping[str, Diary] | None = None,
) -> None:
    """Write the figures of an evaluation; `cases.csv` has the row named by `headline`.

    `diaries` go to `clicks.csv`, if there are any.
    """
    write_atomically(folder / "cases.csv", table.to_csv(summary["headline"]).encode())
    write_atomically(folder / "comparison.csv", table.to_csv().encode())
    if diaries:
        write_atomically(folder / "clicks.csv", to_csv(diaries).encode())
    text = json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(folder / "summary.json", f"{text}\n".encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, then rename over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
