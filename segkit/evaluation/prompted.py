"""Masks of a promptable model from simulated prompts, slice by slice, all objects in one batch."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Integer

from segkit.data.preprocess import SliceView
from segkit.data.sampling import derive_seed
from segkit.evaluation.oracle import OracleProtocol, Target, targets
from segkit.evaluation.samples import Sample
from segkit.predictors.automatic import Look
from segkit.predictors.base import Predictor, default_input
from segkit.predictors.close_up import Plane, look_closely
from segkit.predictors.slices import EncodedSlices
from segkit.typing import BOX_FIRST, BOX_LAST, Prompts

BATCH = 32
"""Objects decoded at once."""

Labels = Integer[np.ndarray, "*shape"]
Logits = Float[np.ndarray, "objects rows cols"]


@dataclass(frozen=True, slots=True, eq=False)
class OraclePredictor:
    """A promptable predictor together with the user who prompts it.

    Prompts are drawn for each case from `seed` and the id of the case, so that the order of the
    cases does not matter.
    """

    predictor: Predictor
    labels: Mapping[int, str]
    protocol: OracleProtocol = field(default_factory=OracleProtocol)
    seed: int = 0

    def __call__(self, sample: Sample) -> Labels:
        """Label map on the grid of the sample after the last prompt."""
        return self.snapshots(sample, (self.protocol.rounds,))[self.protocol.rounds]

    def watched(self, sample: Sample, look: Look) -> Labels:
        """As a call, showing the probability of each class on every slice with a prompt.

        It is that of the object of the class that is likeliest there.
        """
        rounds = self.protocol.rounds
        return self.snapshots(sample, (rounds,), look)[rounds]

    def snapshots(
        self, sample: Sample, counts: Sequence[int], look: Look | None = None
    ) -> dict[int, Labels]:
        """Label maps after each number of prompts in `counts`, from one sequence of prompts.

        `look` is shown the probabilities after the last one.
        """
        rng = torch.Generator().manual_seed(derive_seed(self.seed, zlib.crc32(sample.id.encode())))
        slices = self._slices(sample)
        stack = slices.view.stack(sample.reference)
        ids = None if sample.instances is None else slices.view.stack(sample.instances)
        out = {count: np.zeros(slices.view.shape, dtype=np.uint8) for count in counts}
        for index in np.flatnonzero(np.isin(stack, list(self.labels)).any(axis=(1, 2))).tolist():
            best = {count: np.zeros(slices.view.shape[1:], dtype=np.float32) for count in counts}
            found = targets(
                stack[index], self.labels, self.protocol, None if ids is None else ids[index]
            )
            likeliest = np.full((max(self.labels), *slices.view.shape[1:]), -np.inf, np.float32)
            for start in range(0, len(found), BATCH):
                batch = found[start : start + BATCH]
                for count, logits in self._refine(slices, index, batch, max(counts), rng).items():
                    if count in out:
                        _paint(out[count][index], best[count], logits, batch)
                for target, one in zip(batch, logits, strict=True):
                    np.maximum(likeliest[target.value - 1], one, out=likeliest[target.value - 1])
            if look is not None:
                with np.errstate(over="ignore"):
                    look(slices.view, index, 1 / (1 + np.exp(-likeliest)))
        return {count: slices.view.restore(labels) for count, labels in out.items()}

    def _slices(self, sample: Sample) -> EncodedSlices:
        info, size = self.predictor.info, self.predictor.segmenter.spec.image_size
        spec = default_input(sample.source, size) if info is None else info.input
        view = SliceView(sample.source, spec)
        # one slice after the other: nothing is asked twice
        return EncodedSlices(self.predictor.segmenter, view, cache_bytes=0)

    def _refine(
        self,
        slices: EncodedSlices,
        index: int,
        batch: Sequence[Target],
        most: int,
        rng: torch.Generator,
    ) -> dict[int, Logits]:
        """Logits on the source pixels of one slice after 1, 2, ... prompts of each object."""
        if slices.view.spec.zoom is not None:
            each = [self._refine_closely(slices, index, target, most, rng) for target in batch]
            return {count: np.stack([one[count] for one in each]) for count in each[0]}
        masks = np.stack([target.mask for target in batch])
        scale = np.divide(slices.view.content_size, slices.view.shape[1:])
        prompts, low = self.protocol.first(masks, rng), None
        rounds: dict[int, Logits] = {}
        for number in range(1, most + 1):
            is_ambiguous = number == 1 and self.protocol.kind == "clicks"
            asked = replace(_to_model(prompts, scale), masks=low)
            low = slices.decode(index, asked, multimask=is_ambiguous).best().logits.float().cpu()
            rounds[number] = slices.view.logits_to_source([low[:, 0].numpy()], [index])[0]
            if number < most:
                prompts = self.protocol.correct(prompts, rounds[number] > 0, masks, rng)
        return rounds

    def _refine_closely(
        self,
        slices: EncodedSlices,
        index: int,
        target: Target,
        most: int,
        rng: torch.Generator,
    ) -> dict[int, Plane]:
        """As `_refine`, for one object seen through a window."""
        mask = target.mask[None]
        scale = np.divide(slices.view.content_size, slices.view.shape[1:])
        prompts, found = self.protocol.first(mask, rng), None
        rounds: dict[int, Plane] = {}
        for number in range(1, most + 1):
            found = look_closely(
                slices,
                index,
                _to_model(prompts, scale),
                prior=None if found is None else found.plane,
                window=None if found is None else found.window,
                multimask=number == 1 and self.protocol.kind == "clicks",
            )
            rounds[number] = found.plane
            if number < most:
                prompts = self.protocol.correct(prompts, found.plane[None] > 0, mask, rng)
        return rounds


def _to_model(prompts: Prompts, scale: Float[np.ndarray, "2"]) -> Prompts:
    """Pixels of a slice to pixels of the model; boxes keep their outer edges."""
    side = torch.zeros_like(prompts.points)
    side[prompts.labels == BOX_FIRST] = -0.5
    side[prompts.labels == BOX_LAST] = 0.5
    factor = torch.tensor([1.0, *scale], dtype=torch.float32)
    points = (prompts.points + 0.5 + side) * factor - 0.5 - side
    points[..., 0] = 0
    return replace(prompts, points=points)


def _paint(
    labels: Integer[np.ndarray, "rows cols"],
    best: Float[np.ndarray, "rows cols"],
    logits: Logits,
    batch: Sequence[Target],
) -> None:
    """Give each pixel to the object with the highest logit above 0, in place."""
    for target, one in zip(batch, logits, strict=True):
        wins = one > best
        labels[wins] = target.value
        best[wins] = one[wins]
