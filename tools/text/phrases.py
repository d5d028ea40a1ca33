"""Phrases about one attribute or two, and in which pictures they hold: pairs without false ones.

Captions of a batch are compared with every picture of it, and some fit pictures they do not belong
to. Of a phrase the generator knows for every picture whether it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tools.text.vocabulary import COLUMNS, NOUNS, ROWS, SHAPES, SIZES, TONES, Kind


@dataclass(frozen=True, slots=True)
class Phrase:
    """What is said; None leaves an attribute out. `count` 0 stands for any."""

    tone: str | None = None
    shape: str | None = None
    size: str | None = None
    row: str | None = None
    column: str | None = None
    count: int = 0

    def holds(self, kinds: Sequence[Kind]) -> bool:
        """Whether one of the kinds is all that is said."""
        return any(self._fits(kind) for kind in kinds)

    def words(self, rng: np.random.Generator) -> str:
        """The phrase, in words drawn from the synonyms."""
        parts = ["two" if self.count == 2 else "three" if self.count == 3 else "a"]
        for table, value in ((SIZES, self.size), (TONES, self.tone), (SHAPES, self.shape)):
            if value is not None:
                word = table[value][int(rng.integers(len(table[value])))]
                parts.append("ring shaped" if word == "ring" else word)
        noun = NOUNS[int(rng.integers(len(NOUNS)))]
        plural = "masses" if noun == "mass" else f"{noun}s"
        parts.append(plural if self.count > 1 else noun)
        places = ((ROWS, self.row), (COLUMNS, self.column))
        place = [table[side][int(rng.integers(len(table[side])))] for table, side in places if side]
        return " ".join([*parts, *(["in", "the", *place] if place else [])])

    def _fits(self, kind: Kind) -> bool:
        said = (self.tone, self.shape, self.size, self.row, self.column)
        are = (kind.tone, kind.shape, kind.size, kind.row, kind.column)
        matches = all(one is None or one == other for one, other in zip(said, are, strict=True))
        return matches and self.count in (0, kind.count)


PHRASES: tuple[Phrase, ...] = (
    *(Phrase(tone) for tone in TONES),
    *(Phrase(shape=shape) for shape in SHAPES),
    *(Phrase(tone, shape) for tone in TONES for shape in SHAPES),
    *(Phrase(tone, size=size) for tone in TONES for size in SIZES),
    *(Phrase(tone, row=row) for tone in TONES for row in ROWS),
    *(Phrase(tone, column=column) for tone in TONES for column in COLUMNS),
    *(Phrase(row=row, column=column) for row in ROWS for column in COLUMNS),
    *(Phrase(tone, count=count) for tone in TONES for count in (2, 3)),
)


def known_pairs_loss(
    scores: Float[Tensor, "images phrases"], holds: Bool[Tensor, "images phrases"]
) -> Float[Tensor, ""]:
    """Cross-entropy of each picture in which a phrase holds against all in which it does not."""
    against = torch.where(holds, -torch.inf, scores).logsumexp(dim=0)
    # a phrase that holds in every picture of the batch teaches nothing
    usable = holds & ~holds.all(dim=0)
    if not usable.any():
        return scores.sum() * 0
    gap = against.clamp(min=-1e4)[None] - scores
    return F.softplus(gap)[usable].mean()
