"""Which slices an epoch consists of, and in which order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from segkit.errors import InputError

Empty = Literal["keep", "drop"] | float


@dataclass(frozen=True, slots=True)
class Draw:
    """One training sample: its position in the slice table, in an epoch (for the random state)."""

    epoch: int
    index: int


def derive_seed(*parts: int) -> int:
    """Mix whole numbers (seed, epoch, index, ...) into one 32-bit seed."""
    return int(np.random.SeedSequence([part % 2**32 for part in parts]).generate_state(1)[0])


def check_empty(empty: Empty) -> float:
    """Share of the empty slices that is kept.

    Raises:
        InputError: It is neither "keep", "drop" nor a number from 0 to 1.
    """
    if empty in ("keep", "drop"):
        return float(empty == "keep")
    if isinstance(empty, str) or not 0 <= empty <= 1:
        raise InputError(
            f"empty={empty!r} is no rule for slices without a label",
            fix="allowed: 'keep', 'drop', or the share of them to keep, 0 to 1",
            option="empty",
        )
    return float(empty)


def slice_table(
    foreground: Sequence[Int[np.ndarray, " _"]], empty: Empty = "keep", *, seed: int = 0
) -> Int[np.ndarray, "samples 2"]:
    """List (case, slice) of all slices to train on, ordered by case and slice.

    `foreground` holds the labelled pixels of each slice of each case. `empty` says what happens to
    slices without any: "keep" them, "drop" them, or keep a share of them chosen by `seed`.
    """
    share = check_empty(empty)
    rows = [(case, index) for case, counts in enumerate(foreground) for index in range(len(counts))]
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    is_empty = np.concatenate([np.asarray(counts) == 0 for counts in foreground] or [[]])
    candidates = np.flatnonzero(is_empty)
    shuffled = np.random.RandomState(derive_seed(seed)).permutation(candidates)
    dropped = shuffled[round(share * len(candidates)) :]
    return np.delete(table, dropped, axis=0)


class EpochSampler(Sampler[Draw]):
    """Every sample of one epoch once, in an order that (seed, epoch) determines.

    `start` samples were consumed before an interruption and are left out: the rest equals the rest
    of the unbroken epoch. With `ranks` processes each takes every `ranks`-th sample; the last round
    is filled from the beginning so that all take the same number. `start` counts the samples of
    this process.
    """

    def __init__(
        self, length: int, seed: int, epoch: int, start: int = 0, *, rank: int = 0, ranks: int = 1
    ) -> None:
        if not 0 <= rank < ranks:
            raise ValueError(f"rank must be 0 to {ranks - 1}, got {rank}")
        self.epoch = epoch
        # RandomState: NumPy promises that its stream never changes
        order = np.random.RandomState(derive_seed(seed, epoch)).permutation(length)
        order = np.resize(order, -(-length // ranks) * ranks)[rank::ranks]
        if not 0 <= start <= len(order):
            raise ValueError(f"start must be 0 to {len(order)} samples, got {start}")
        self._order = order[start:]

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(self.epoch, int(index)) for index in self._order)
