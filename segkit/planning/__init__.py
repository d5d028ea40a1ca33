"""From a folder of data to an experiment that can be run as it is."""

from typing import TYPE_CHECKING

from segkit.lazy import attributes

if TYPE_CHECKING:
    from segkit.planning.fingerprint import Fingerprint as Fingerprint
    from segkit.planning.fingerprint import take_fingerprint as take_fingerprint
    from segkit.planning.request import Decision as Decision
    from segkit.planning.request import PlanRequest as PlanRequest

__getattr__, __dir__ = attributes(
    __name__,
    {"fingerprint": ("Fingerprint", "take_fingerprint"), "request": ("Decision", "PlanRequest")},
)
