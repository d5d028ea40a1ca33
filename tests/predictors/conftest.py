"""A promptable model whose answers are known: what is bright and marked is the object."""

from collections.abc import Callable
from types import SimpleNamespace

import cc3d
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from segkit.data.preprocess import InputSpec, Intensity
from segkit.data.volume import Picture, Volume
from segkit.geometry import Geometry
from segkit.predictors import VolumePredictor
from segkit.typing import (
    BOX_FIRST,
    BOX_LAST,
    NEGATIVE,
    POSITIVE,
    BackboneSpec,
    Features,
    Grid,
    MaskPrediction,
    Prompts,
)

SURE = 5.0


class BrightSegmenter(nn.Module):
    """Follows the interface of `Segmenter` in two or three dimensions.

    A positive click gives the connected bright region it lies in, a box the bright voxels inside,
    an earlier mask the regions it overlaps; a negative click takes its region away.
    """

    def __init__(self, side: int, dimensions: int, classes: int | None = None) -> None:
        super().__init__()
        self.spec = BackboneSpec("bright", side, 1, (), 1, 4, dimensions)
        self.classes, self.is_automatic = classes, classes is not None
        self.prompt_encoder, self.recipe = nn.Identity(), None
        self.decoder = SimpleNamespace(resolution_free=False)
        self.device = torch.device("cpu")
        self.encoded, self.seen = 0, list[Prompts]()

    def encode(self, image: Tensor, grid: Grid | None = None) -> Features:
        self.encoded += 1
        grid = grid or Grid((1, image.shape[2], image.shape[3]))
        if self.spec.dimensions == 2:
            return Features((image[:, :1],), grid)
        return Features((image[:, :1].unflatten(0, (-1, grid.depth)).transpose(1, 2),), grid)

    def decode(
        self,
        features: Features,
        prompts: Prompts | None = None,
        *,
        multimask: bool = False,
        size: tuple[int, ...] | None = None,
    ) -> MaskPrediction:
        del multimask, size  # one answer is enough, and no decoder of one resolution heeds a size
        level = features.levels[0]
        if prompts is None:
            steps = torch.arange(1, (self.classes or 0) + 1).view(-1, *(1,) * (level.ndim - 2))
            # class c is brightest around c / classes
            logits = 0.3 - (level * len(steps) - steps).abs()
            return MaskPrediction(logits, logits.flatten(2).mean(dim=2))
        self.seen.append(prompts)
        chosen = _chosen(level[0, 0].numpy() > 0.5, prompts)
        logits = torch.from_numpy(np.where(chosen, SURE, -SURE).astype(np.float32))
        return MaskPrediction(logits[None, None], torch.tensor([[0.9 if chosen.any() else 0.1]]))


def _chosen(bright: np.ndarray, prompts: Prompts) -> np.ndarray:
    parts = cc3d.connected_components(bright, connectivity=8 if bright.ndim == 2 else 26)
    points = prompts.points[0, :, -bright.ndim :].numpy()
    labels = prompts.labels[0].numpy()
    at = [tuple(np.rint(point).astype(int)) for point in points]
    hit = {kind: {int(parts[p]) for p, one in zip(at, labels, strict=True) if one == kind}
           for kind in (POSITIVE, NEGATIVE)}  # fmt: skip
    chosen = np.isin(parts, list(hit[POSITIVE] - {0}))
    firsts, lasts = points[labels == BOX_FIRST], points[labels == BOX_LAST]
    for first, last in zip(firsts, lasts, strict=True):
        sides = (slice(max(round(a), 0), round(b) + 1) for a, b in zip(first, last, strict=True))
        box = tuple(sides)
        chosen[box] |= bright[box]
    if prompts.masks is not None:
        kept = np.unique(parts[prompts.masks[0, 0].numpy() > 0])
        chosen |= np.isin(parts, kept[kept > 0])
    return chosen & ~np.isin(parts, list(hit[NEGATIVE] - {0}))


class BrightPredictor(VolumePredictor):
    """Reads bytes as they are, in blocks of `patch` voxels or in slices."""

    def __init__(
        self,
        side: int = 64,
        patch: tuple[int, int, int] | None = None,
        spacing_mm: tuple[float, float, float] | None = None,
        classes: int | None = None,
    ) -> None:
        model = BrightSegmenter(side, 2 if patch is None else 3, classes)
        super().__init__(model, device="cpu")  # type: ignore[arg-type]
        self.model = model
        self.spec = InputSpec(
            3, side, "repeat", Intensity("full"), patch=patch, spacing_mm=spacing_mm
        )

    @override
    def _input_spec(self, source: Volume | Picture) -> InputSpec:
        return self.spec


@pytest.fixture
def bright() -> Callable[..., BrightPredictor]:
    """Make a predictor of slices, or of blocks if `patch` is given."""
    return BrightPredictor


@pytest.fixture
def a_scan() -> Callable[..., Volume]:
    """Make a dark volume with bright boxes `(first, last)`."""

    def make(
        shape: tuple[int, int, int],
        *boxes: tuple[tuple[int, int, int], tuple[int, int, int]],
        spacing_mm: tuple[float, float, float] = (3.0, 1.0, 1.0),
    ) -> Volume:
        array = np.zeros(shape, dtype=np.uint8)
        for first, last in boxes:
            array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = 255
        return Volume(array, Geometry.from_spacing(shape, spacing_mm))

    return make
