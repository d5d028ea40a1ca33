"""`metrics.csv` of a run folder: one row per logged step, continued by a resumed run."""

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override


class MetricsCsv(Logger):
    """Write `metrics.csv` with columns step, epoch and one per metric.

    Rows after `resumed_at` belong to work that was lost and is done again; they are dropped, so
    that the file of a resumed run equals that of an unbroken one.
    """

    def __init__(self, path: str | Path, resumed_at: int | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, str]] = []
        if resumed_at is not None and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.rows = [row for row in rows if int(row["step"]) < resumed_at]

    @property
    @override
    def name(self) -> str:
        return "csv"

    @property
    @override
    def version(self) -> str:
        return ""

    @override
    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Settings are in config.yaml."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": str(step), "epoch": ""}
        row |= {
            name: str(int(value)) if name == "epoch" else f"{float(value):.8g}"
            for name, value in metrics.items()
        }
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.rows[-1] |= row
        else:
            self.rows.append(row)

    @override
    @rank_zero_only
    def save(self) -> None:
        if not self.rows:
            return
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(partial, self.path)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
