"""What happens when a loss or a gradient is not a number."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from segkit.errors import SegkitError

_log = logging.getLogger(__name__)


class DivergedError(SegkitError):
    """Too many steps in a row without a finite loss."""


class FiniteGuard:
    """Skip and count steps that are not finite; stop after `limit` in a row.

    The case ids of skipped batches, never their pixels, go to `skipped_batches.csv` in `folder`.
    """

    def __init__(self, limit: int = 10, folder: str | Path | None = None) -> None:
        if limit < 1:
            raise ValueError(f"limit must be >= 1, got {limit}")
        self.limit, self.folder = limit, None if folder is None else Path(folder)
        self.total = self.in_a_row = 0

    def passed(self) -> None:
        """Note a step that was finite."""
        self.in_a_row = 0

    def failed(self, what: str, step: int, case_ids: Sequence[str]) -> None:
        """Note a skipped step.

        Raises:
            DivergedError: It was the last one allowed.
        """
        self.total += 1
        self.in_a_row += 1
        _log.warning("step %d skipped: %s is not finite (%d so far)", step, what, self.total)
        where = self._dump(what, step, case_ids)
        if self.in_a_row >= self.limit:
            raise DivergedError(
                f"{where}stopped after {self.in_a_row} steps in a row whose {what} is not finite; "
                "lower the learning rate, use precision 32-true, or check these cases; "
                "the last good checkpoint is intact"
            )

    def state_dict(self) -> dict[str, int]:
        """Counters for a checkpoint."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore the counters."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]

    def _dump(self, what: str, step: int, case_ids: Sequence[str]) -> str:
        if self.folder is None:
            return f"cases {sorted(set(case_ids))}: "
        path = self.folder / "skipped_batches.csv"
        is_new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", "what", "case_ids"])
            writer.writerow([step, what, " ".join(sorted(set(case_ids)))])
        return f"{path}: "
