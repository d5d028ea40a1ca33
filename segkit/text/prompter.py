"""From words to boxes and points on the grid of an image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from segkit.data.objects import Source, as_source
from segkit.data.preprocess import SliceView
from segkit.data.volume import Picture
from segkit.errors import InputError
from segkit.text.bottleneck import saliency
from segkit.text.contrastive import Compat
from segkit.text.encoder import TextImageEncoder
from segkit.text.regions import Region, find_regions, spread
from segkit.text.settings import RegionSettings, SaliencySettings
from segkit.text.slices import (
    axis_of,
    evenly,
    number_of,
    numbered,
    open_view,
    slice_image,
    to_source,
)
from segkit.text.template import Words

Index = tuple[float, ...]
Slices = Literal["best", "all"] | tuple[int, int]
CANDIDATES = 48
"""Slices of a volume that are compared with the words to find the best one."""
AT_ONCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One region on one slice, in voxel indices of the source: (k, j, i), or (row, column).

    `box` is half-open; `point` is the most salient voxel; `confidence` see `Region`.
    """

    slice: int
    box: tuple[Index, Index]
    point: Index
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """Where an image shows what one name stands for; `places` is empty if nowhere.

    `similarity` is the cosine between words and slice, by number of the slice; `maps` are the
    saliencies in [0, 1] of the slices that were looked at, on their pixels.
    """

    name: str
    wordings: tuple[str, ...]
    axis: int | None
    places: tuple[Place, ...]
    similarity: Mapping[int, float]
    maps: Mapping[int, Float[np.ndarray, "rows columns"]]

    @property
    def boxes(self) -> tuple[tuple[Index, Index], ...]:
        """Boxes of all places."""
        return tuple(place.box for place in self.places)

    @property
    def points(self) -> tuple[Index, ...]:
        """Points of all places."""
        return tuple(place.point for place in self.places)

    @property
    def status(self) -> Literal["found", "nothing"]:
        """Whether there is a place."""
        return "found" if self.places else "nothing"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a report; maps are left out."""
        return {
            "name": self.name,
            "status": self.status,
            "axis": self.axis,
            "places": [
                {
                    "slice": place.slice,
                    "box": [list(corner) for corner in place.box],
                    "point": list(place.point),
                    "confidence": round(place.confidence, 4),
                }
                for place in self.places
            ],
            "similarity": {str(key): round(value, 4) for key, value in self.similarity.items()},
        }


class TextPrompter:
    """Find what words describe; an encoder and no image, so one serves many images.

    `saliency` defaults to what suits the encoder. The words are the same for every image; several
    wordings of one object are averaged.

    Example:
        >>> from segkit.text import SmallSizes, build_small
        >>> encoder = build_small(SmallSizes(image_size=16, width=48, depth=1), ("bright", "ring"))
        >>> prompter = TextPrompter(encoder)
        >>> image = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
        >>> finding = prompter.find(image, "a bright ring")
        >>> finding.status, len(finding.boxes)
        ('found', 1)
    """

    def __init__(
        self,
        encoder: TextImageEncoder,
        *,
        saliency: SaliencySettings | None = None,
        regions: RegionSettings | None = None,
        compat: Compat = None,
    ) -> None:
        self.encoder = encoder.eval()
        self.saliency = saliency or encoder.spec.saliency
        self.regions, self.compat = regions or RegionSettings(), compat

    def find(
        self,
        source: Source,
        words: str | Sequence[str],
        *,
        name: str = "object",
        axis: int | None = None,
        slices: Slices = "best",
    ) -> Finding:
        """Places of one object, described by a text or by several wordings; see `find_all`."""
        wordings = (words,) if isinstance(words, str) else tuple(words)
        return self.find_all(source, {name: wordings}, axis=axis, slices=slices)[0]

    def find_all(
        self, source: Source, words: Words, *, axis: int | None = None, slices: Slices = "best"
    ) -> tuple[Finding, ...]:
        """Places of several objects, in the order of `words`; all share one pass over the image.

        Args:
            source: anything `segkit` opens; a path, an array, a volume with its geometry.
            words: wordings by name.
            axis: array axis (0 k, 1 j, 2 i) along which slices lie; by default the coarsest.
            slices: of a volume: the one that fits the words best, "all", or a range [start, stop).

        Raises:
            InputError: The source cannot be read, there are no words, or there is no such slice.
        """
        opened = as_source(source)
        view = open_view(opened, axis)
        texts = self._vectors(words)
        if isinstance(slices, tuple):
            candidates = numbered(view, slices)
        else:
            candidates = evenly(view.shape[0], CANDIDATES if slices == "best" else None)
        likeness = self._similarity(view, candidates, texts)
        findings = []
        for row, (name, wordings) in enumerate(words.items()):
            chosen = candidates
            if slices == "best":
                chosen = [candidates[int(likeness[row].argmax())]]
            scores = dict(zip(candidates, likeness[row].tolist(), strict=True))
            maps = self._maps(view, chosen, texts[row])
            places = [
                place
                for index in chosen
                for place in _places(view, index, find_regions(maps[index], self.regions))
            ]
            used = None if isinstance(opened, Picture) else axis_of(view)
            numbers = {index: number_of(view, index) for index in candidates}
            findings.append(
                Finding(
                    name,
                    tuple(wordings),
                    used,
                    tuple(places),
                    {numbers[index]: score for index, score in scores.items()},
                    {numbers[index]: values for index, values in maps.items()},
                )
            )
        return tuple(findings)

    def facts(self) -> dict[str, Any]:
        """All that decided the places, for a report."""
        return {
            "encoder": self.encoder.spec.name,
            "sha256": self.encoder.spec.sha256,
            "saliency": self.saliency.to_dict(),
            "regions": self.regions.to_dict(),
            "compat": self.compat,
        }

    def _vectors(self, words: Words) -> Float[Tensor, "names features"]:
        if not words:
            raise InputError("no words given", fix="say what to look for")
        with torch.no_grad():
            return torch.stack([self.encoder.encode_ensemble(list(w)) for w in words.values()])

    def _similarity(
        self, view: SliceView, candidates: Sequence[int], texts: Tensor
    ) -> Float[Tensor, "names slices"]:
        parts = []
        with torch.no_grad():
            for some in _chunks(candidates):
                images = torch.stack([slice_image(view, index) for index in some])
                pixels = self.encoder.pixels(images.to(self.encoder.device))
                parts.append(texts @ self.encoder.encode_image(pixels).T)
        return torch.cat(parts, dim=1).cpu()

    def _maps(
        self, view: SliceView, chosen: Sequence[int], text: Tensor
    ) -> dict[int, Float[np.ndarray, "rows columns"]]:
        found: dict[int, Float[np.ndarray, "rows columns"]] = {}
        for some in _chunks(chosen):
            images = torch.stack([slice_image(view, index) for index in some])
            pixels = self.encoder.pixels(images.to(self.encoder.device))
            raw = saliency(
                self.encoder,
                pixels,
                text.expand(len(some), -1),
                self.saliency,
                compat=self.compat,
            )
            rows, columns = view.shape[1:]
            full = spread(raw.cpu(), (rows, columns)).numpy()
            found |= dict(zip(some, full, strict=True))
        return found


def _chunks(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), AT_ONCE):
        yield numbers[start : start + AT_ONCE]


def _places(view: SliceView, index: int, regions: Sequence[Region]) -> Iterator[Place]:
    for region in regions:
        (top, left), (bottom, right) = region.box
        corners = np.array([[index, top, left], [index, bottom - 1, right - 1]], dtype=float)
        corners = np.sort(np.rint(to_source(view, corners)), axis=0)
        point = np.rint(to_source(view, np.array([[index, *region.peak]], dtype=float)))[0]
        yield Place(
            number_of(view, index),
            (tuple(corners[0].tolist()), tuple((corners[1] + 1).tolist())),
            tuple(point.tolist()),
            region.confidence,
        )
