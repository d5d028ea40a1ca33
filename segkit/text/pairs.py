"""Images with captions on disk: what an encoder is fine-tuned on."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from segkit.data.readers import load
from segkit.errors import InputError
from segkit.text.slices import open_view, slice_image
from segkit.text.training import Pairs

LEAST_CHARACTERS = 20
"""Shorter captions say too little (MedCLIP-SAMv2)."""


@dataclass(frozen=True, slots=True)
class CaptionedFile:
    """One image and what it shows."""

    image: Path
    caption: str


def read_captions(
    path: str | Path, *, least_characters: int = LEAST_CHARACTERS
) -> tuple[CaptionedFile, ...]:
    """Read a table of captions: CSV with the columns image and caption, or JSON lines.

    Paths are relative to the table. Captions below `least_characters` are left out.

    Raises:
        InputError: The table cannot be read, lacks a column, names an image that is missing, or
            fewer than two captions are left.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", path=path, fix="name a CSV or JSONL table of captions")
    text = path.read_text(encoding="utf-8")
    rows: Sequence[object]
    try:
        if path.suffix.lower() == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (csv.Error, ValueError) as error:
        raise InputError(f"cannot be read as a table ({error})", path=path) from error
    found = [_row(path, number, row) for number, row in enumerate(rows, start=1)]
    if missing := [one.image for one in found if not one.image.is_file()]:
        raise InputError(f"{len(missing)} images are missing, e.g. {missing[0]}", path=path)
    kept = tuple(one for one in found if len(one.caption) >= least_characters)
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} of {len(found)} captions have at least {least_characters} characters",
            path=path,
            fix="at least two are needed; lower the limit if short captions are meant",
        )
    return kept


class CaptionBatches:
    """Batches of captioned files, shuffled anew in each pass by `seed`; `draw` of a training.

    The same step gives the same batch. Incomplete batches at the end of a pass are left out, unless
    there is no other.
    """

    def __init__(
        self, files: Sequence[CaptionedFile], *, size: int, batch: int = 64, seed: int = 0
    ) -> None:
        if batch < 2:
            raise InputError(f"a batch needs at least 2 pairs, got {batch}")
        self.files, self.size, self.seed = tuple(files), size, seed
        self.batch = min(batch, len(self.files))
        self.steps_per_pass = len(self.files) // self.batch

    def __call__(self, step: int) -> Pairs:
        """Batch of a step."""
        turn, place = divmod(step, self.steps_per_pass)
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.files))
        chosen = [self.files[n] for n in order[place * self.batch :][: self.batch]]
        images = torch.cat([self._pixels(one.image) for one in chosen])
        return Pairs(images, ([one.caption for one in chosen],))

    def _pixels(self, path: Path) -> torch.Tensor:
        """An image, or the middle slice of a volume, as the square the encoder sees."""
        view = open_view(load(path))
        plane = slice_image(view, view.shape[0] // 2)[None]
        return F.interpolate(
            plane, size=(self.size, self.size), mode="bilinear", antialias=True
        ).clamp(0, 1)


def _row(path: Path, number: int, row: object) -> CaptionedFile:
    values = row if isinstance(row, dict) else {}
    image, caption = values.get("image"), values.get("caption")
    if not isinstance(image, str) or not isinstance(caption, str) or not image.strip():
        raise InputError(
            f"row {number} lacks an image or a caption: {row!r}",
            path=path,
            fix="the columns are called image and caption",
        )
    return CaptionedFile(path.parent / image.strip(), " ".join(caption.split()))
