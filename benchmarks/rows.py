"""Rows of the benchmark book: an identifier, our figure, a peer's, the target of their ratio."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LIMIT = 1e-3
"""Largest relative error (fp32) at which times are compared (harness rule H2)."""


class WrongResultError(AssertionError):
    """A contender does not compute what it is compared for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; `ratio` is segkit / peer, lower is better, and None without a peer.

    `target` is the largest ratio allowed; `limit`, in its place, the largest figure of segkit, in
    `unit`. `error` is the relative error against the reference, `raw` the single samples.
    """

    id: str
    case: str
    segkit: float
    peer: float | None
    unit: str
    target: float | None
    peer_name: str = ""
    error: float | None = None
    note: str = ""
    raw: dict[str, Sequence[float]] = field(default_factory=dict)
    limit: float | None = None

    @property
    def ratio(self) -> float | None:
        """Share of the peer's figure."""
        return None if self.peer is None else self.segkit / self.peer

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None if there is nothing to compare with."""
        if self.limit is not None:
            return self.segkit <= self.limit
        if self.ratio is None or self.target is None:
            return None
        return self.ratio <= self.target

    def cells(self) -> dict[str, object]:
        """Columns of the table."""
        met = {True: "yes", False: "no", None: ""}[self.is_met]
        target = "" if self.target is None else f"<= {self.target:.3g}"
        if self.limit is not None:
            target = f"<= {self.limit:g} {self.unit}"
        return {
            "row": self.id,
            "case": self.case,
            "segkit": self.segkit,
            "peer": self.peer,
            "unit": self.unit,
            "ratio": self.ratio,
            "target": target,
            "met": met,
            "compared with": self.peer_name,
            "relative error": None if self.error is None else f"{self.error:.0e}",
            "note": self.note,
        }


def gate(
    reference: Sequence[Tensor], found: Sequence[Tensor], *, limit: float = LIMIT, name: str = ""
) -> float:
    """Largest relative difference; no time is measured of what exceeds `limit`.

    Raises:
        WrongResultError: It is larger.
    """
    worst = 0.0
    for want, got in zip(reference, found, strict=True):
        want, got = want.detach().double(), got.detach().double()
        worst = max(worst, float((want - got).abs().max() / want.abs().max().clamp(min=1e-12)))
    if not worst <= limit:
        raise WrongResultError(f"{name or 'result'} is off by {worst:.1e}, allowed {limit:.0e}")
    return worst


def not_run(identifier: str, case: str, command: str) -> dict[str, object]:
    """A row whose hardware or peer is absent."""
    return {"row": identifier, "case": case, "met": "not run", "note": f"`{command}`"}


def raw_samples(rows: Iterable[Row]) -> dict[str, object]:
    """Samples of all rows, for the JSON file."""
    return {f"{row.id} {row.case}": dict(row.raw) for row in rows if row.raw}


Make = Callable[[], tuple[Tensor, ...]]


def gradients(make: Make, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Outputs and gradients of a fixed scalar of them, for a gate."""
    outputs = make()
    seeds = [torch.linspace(-1, 1, one.numel()).view(one.shape) for one in outputs]
    loss = torch.stack([(a * b).sum() for a, b in zip(outputs, seeds, strict=True)]).sum()
    return [*outputs, *torch.autograd.grad(loss, leaves)]
