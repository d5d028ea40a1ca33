"""Progress and cancellation of long work."""

from collections.abc import Callable
from dataclasses import dataclass

from segkit.errors import SegkitError

Progress = Callable[[int, int], None]
"""Called with the steps done and the number of steps."""
Cancel = Callable[[], bool]
"""Asked before each step; true stops the work."""


class CancelledError(SegkitError):
    """The caller asked to stop; nothing has changed."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks at a piece of work and may stop it."""

    progress: Progress | None = None
    cancel: Cancel | None = None

    def step(self, done: int, total: int) -> None:
        """Report that `done` of `total` steps are finished.

        Raises:
            CancelledError: The caller wants no more.
        """
        if self.cancel is not None and self.cancel():
            raise CancelledError(f"stopped after {done} of {total} steps")
        if self.progress is not None:
            self.progress(done, total)


UNWATCHED = Watch()
