"""Overlap of prediction and reference, summed per case over its slices."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

Counts = dict[tuple[str, int], tuple[tuple[int, int, int], ...]]


class CaseTally:
    """Collect slices in any order and state Dice per class as the mean over all cases.

    A slice seen twice counts once, so a padded distributed sampler does no harm. Dice of a case
    whose reference and prediction are both empty is 1.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts: Counts = {}

    def add(
        self,
        prediction: Int[Tensor, " n *size"],
        reference: Int[Tensor, " n *size"],
        case_ids: Sequence[str],
        slices: Sequence[int],
    ) -> None:
        """Add slices or blocks; values are classes 0..K."""
        values = torch.arange(1, self.classes + 1, device=prediction.device).view(-1, 1, 1)
        found, truth = prediction.flatten(1) == values, reference.flatten(1) == values
        sums = [part.sum(dim=2) for part in (found & truth, found, truth)]  # [classes n]
        table = torch.stack(sums, dim=-1).transpose(0, 1).tolist()  # [n classes 3]
        for case_id, index, row in zip(case_ids, slices, table, strict=True):
            self.counts[case_id, index] = tuple(tuple(cells) for cells in row)

    def merge(self, others: Sequence[Counts]) -> None:
        """Take over what other processes counted."""
        for counts in others:
            self.counts.update(counts)

    @property
    def cases(self) -> int:
        """Number of cases seen."""
        return len({case_id for case_id, _ in self.counts})

    def dice(self) -> list[float]:
        """Mean Dice over cases for the classes 1, 2, ...

        Raises:
            ValueError: No slice was added.
        """
        if not self.counts:
            raise ValueError("no validation slice was seen; is the validation set empty?")
        sums: dict[str, Tensor] = {}
        for (case_id, _), row in self.counts.items():
            cells = torch.tensor(row, dtype=torch.float64)
            sums[case_id] = sums[case_id] + cells if case_id in sums else cells
        overlap, found, truth = torch.stack([sums[key] for key in sorted(sums)]).unbind(-1)
        size = found + truth
        dice = torch.where(size > 0, 2 * overlap / size.clamp(min=1), torch.ones_like(size))
        return dice.mean(dim=0).tolist()
