"""Several models with the same classes answer together: the mean of their probabilities."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from segkit.data.objects import Source
from segkit.data.options import ReadOptions
from segkit.data.volume import Picture, Volume
from segkit.errors import InputError
from segkit.models.files import load_model
from segkit.predictors.automatic import block_scores, classes_of, slice_scores
from segkit.predictors.base import Predictor
from segkit.predictors.watch import UNWATCHED

Plane = tuple[int, int, Float[Tensor, "classes rows cols"]]


class Ensemble:
    """Models of one experiment, such as the folds of a cross-validation, as one.

    They must segment the same classes and see images alike; their frozen weights may differ. The
    models sweep the image together, so memory beyond theirs holds a few slices, or a slab, of each.

    Example:
        >>> from segkit.models import build
        >>> from segkit.models.info import ModelInfo
        >>> models = [build.sam_tiny(classes=1) for _ in range(2)]
        >>> both = Ensemble([Predictor(one, ModelInfo.of(one)) for one in models])
        >>> both.segment(np.zeros((20, 24), np.uint8)).shape
        (20, 24)

    Raises:
        InputError: There are fewer than two models, one needs prompts, or they differ in classes
            or in how they read images.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        if len(predictors) < 2:
            raise InputError(f"an ensemble needs at least two models, got {len(predictors)}")
        self.predictors = list(predictors)
        first = self.predictors[0]
        for number, other in enumerate(self.predictors, start=1):
            _check(first, other, number)
        self.device, self.labels = first.device, first.labels

    @classmethod
    def from_pretrained(
        cls,
        models: Sequence[str | Path],
        *,
        checkpoint: str | Path | None = None,
        device: str = "auto",
    ) -> "Ensemble":
        """Load run folders or adapter files.

        Raises:
            CheckpointError: A file is damaged, or made for other weights than `checkpoint`.
        """
        loaded = [load_model(path, checkpoint=checkpoint) for path in models]
        return cls([Predictor(model, info, device=device) for model, info in loaded])

    @property
    def sha256(self) -> str:
        """Hash of the frozen weights of the first model."""
        return self.predictors[0].sha256

    def read(self, source: Source, options: ReadOptions | None = None) -> Volume | Picture:
        """Bring a source into memory and check that it suits the models."""
        return self.predictors[0].read(source, options)

    def segment(
        self,
        source: Source,
        options: ReadOptions | None = None,
        *,
        overlap: float = 0.5,
        mirror: bool = False,
    ) -> Shaped[np.ndarray, "..."]:
        """Label map on the grid of the source: the class of the highest mean probability."""
        opened = self.read(source, options)
        restore, shape = _canvas(self.predictors[0], opened)
        out = np.empty(shape, dtype=np.uint8)
        sweeps = [_planes(one, opened, overlap, mirror) for one in self.predictors]
        for planes in zip(*sweeps, strict=True):
            axis, index, _ = planes[0]
            assert all(plane[:2] == (axis, index) for plane in planes)
            np.moveaxis(out, axis, 0)[index] = _classes([scores for *_, scores in planes])
        return restore(out)

    def save(
        self, path: str | Path, labels: Shaped[np.ndarray, "..."], like: Volume | Picture
    ) -> Path:
        """Write a label map on the grid it belongs to, with the names of the classes."""
        return self.predictors[0].save(path, labels, like)


def _canvas(
    predictor: Predictor, source: Volume | Picture
) -> tuple[Callable[[Shaped[np.ndarray, "..."]], Shaped[np.ndarray, "..."]], tuple[int, ...]]:
    """What brings a label map back to the grid of the file, and the shape it comes from."""
    if predictor.is_volumetric:
        blocks = predictor.blocks(source).view
        return blocks.restore, blocks.oriented_shape
    slices = predictor.slices(source).view
    return slices.restore, slices.shape


@torch.inference_mode()
def _planes(
    predictor: Predictor, source: Volume | Picture, overlap: float, mirror: bool
) -> Iterator[Plane]:
    """Scores on the grid of the file, plane by plane."""
    if predictor.is_volumetric:
        blocks = predictor.blocks(source)
        yield from block_scores(blocks, overlap=overlap, mirror=mirror, watch=UNWATCHED)
        return
    slices = predictor.slices(source)
    for index, scores in slice_scores(slices, mirror=mirror, watch=UNWATCHED):
        yield 0, index, torch.from_numpy(scores)


def _classes(scores: Sequence[Float[Tensor, "classes rows cols"]]) -> np.ndarray:
    """Class of the highest mean probability; the background takes part with score 0."""
    total: Tensor | None = None
    for one in scores:
        every = torch.cat([one.new_zeros(1, *one.shape[1:]), one]).float().softmax(dim=0)
        total = every if total is None else total + every
    assert total is not None
    return classes_of(total[1:] - total[:1])


def _check(first: Predictor, other: Predictor, number: int) -> None:
    if not other.segmenter.is_automatic:
        raise InputError(f"model {number} needs prompts; an ensemble answers without any")
    if other.labels != first.labels:
        raise InputError(
            f"model {number} segments {other.labels}, the first one {first.labels}",
            fix="an ensemble has the classes of each of its models",
            code="other_labels",
        )
    if (other.info and other.info.input) != (first.info and first.info.input):
        raise InputError(
            f"model {number} reads images otherwise than the first one",
            fix="use folds of one experiment; `segkit models info` shows how a model reads",
            code="other_input",
        )
