"""Shared vocabulary: tensor aliases, backbone specifications and the values that travel.

Index space is (k, j, i) = (depth, height, width) in array order; integers lie at voxel centres.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

Image = Float[Tensor, "n channels height width"]  # values in [0, 1]
Tokens = Float[Tensor, "n rows cols dim"]  # channel-last, as in the upstream blocks
Maps = Float[Tensor, "n c h w"]

POSITIVE, NEGATIVE, BOX_FIRST, BOX_LAST, PADDING = 1, 0, 2, 3, -1
"""Values of `Prompts.labels`. A box is two points: its first and its last corner."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Lattice of the input behind a folded batch; axes in array order (k, j, i).

    `shape` is (depth, height, width) of the model input: a batch of n images that are the slices
    of volumes is folded as (volumes * depth). Plain images have depth 1.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"grid shape must be >= 1 on each axis, got {self.shape}")
        if not all(0 < step < math.inf for step in self.spacing_mm):
            raise ValueError(f"spacing_mm must be > 0, got {self.spacing_mm}; check the header")

    @property
    def depth(self) -> int:
        """Number of slices of one volume."""
        return self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.shape[1:]


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """One frozen block; `stride` is input pixels per token after it.

    `dim_in` and `dim_out` differ where Hiera changes stage.
    """

    dim_in: int
    dim_out: int
    stride: int


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """All an adapter or a decoder may know about a backbone.

    `dimensions` is 3 for backbones whose features have a depth axis (the volumetric lift); the
    strides then hold for all three axes. `pixel_mean` and `pixel_std` are what images were
    normalised with before an adapter sees them, on a scale of 0 to 255.
    """

    name: str
    image_size: int
    patch_size: int
    blocks: tuple[BlockSpec, ...]
    out_dim: int  # channels of the coarsest feature level
    out_stride: int  # input pixels per cell of the coarsest feature level
    dimensions: int = 2
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class Features:
    """Encoder output: `levels` finest first, each `[n c h w]`, and the grid they belong to.

    Levels of a three-dimensional backbone are `[volumes c d h w]`.
    """

    levels: tuple[Maps, ...]
    grid: Grid

    def __getitem__(self, images: slice | Int[Tensor, " chosen"]) -> "Features":
        """Select images of the batch."""
        return replace(self, levels=tuple(level[images] for level in self.levels))


@dataclass(frozen=True, slots=True)
class Prompts:
    """Marks for a batch of objects, in pixels of the model input, array order (k, j, i).

    `labels`: 1 adds to the object, 0 removes from it, 2 and 3 are the first and the last corner
    (inclusive) of a box, -1 is padding. `masks` are logits of an earlier prediction. `image_index`
    names the image of each object; without it object b lies on image b. Two-dimensional models
    ignore k.
    """

    points: Float[Tensor, "objects points 3"]
    labels: Int[Tensor, "objects points"]
    masks: Float[Tensor, "objects 1 rows cols"] | None = None
    image_index: Int[Tensor, " objects"] | None = None

    def __post_init__(self) -> None:
        if self.labels.shape != (expected := self.points.shape[:2]):
            got = tuple(self.labels.shape)
            raise ValueError(f"labels must be {tuple(expected)}, got {got}; one label per point")

    def to(self, device: torch.device | str) -> "Prompts":
        """Copy to a device."""
        return Prompts(
            self.points.to(device),
            self.labels.to(device),
            None if self.masks is None else self.masks.to(device),
            None if self.image_index is None else self.image_index.to(device),
        )


@dataclass(frozen=True, slots=True)
class Sketch:
    """A map before its last projection: the map is `weight` times the few values, plus `bias`."""

    values: Float[Tensor, "objects few rows cols"]
    weight: Float[Tensor, "dim few"]
    bias: Float[Tensor, " dim"]


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Encoded prompts: `sparse` tokens, a `dense` map and the position encoding of its cells.

    `drawn` are mask logits that the masks start from, of a model that draws its prompts. `sketch`,
    where it is known, is what `dense` is a projection of; who replaces one replaces the other.
    """

    sparse: Float[Tensor, "objects tokens dim"]
    dense: Float[Tensor, "objects dim rows cols"]
    positions: Float[Tensor, "1 dim rows cols"]
    drawn: Float[Tensor, "objects 1 mask_rows mask_cols"] | None = None
    sketch: Sketch | None = None


@dataclass(frozen=True, slots=True)
class MaskPrediction:
    """Mask logits at the decoder's resolution.

    Interactive mode: one row per object, `masks` are alternatives ranked by `iou`. Automatic mode:
    one row per image, `masks` are the classes 1, 2, ...; background has logit 0 by definition.
    `logits` cover exactly the model input (no padding), row 0 at its top. Those of a
    three-dimensional model are `[objects masks depth rows cols]`. `coarse` are the logits before
    refinement, of a decoder that is trained on both.
    """

    logits: Float[Tensor, "objects masks rows cols"]
    iou: Float[Tensor, "objects masks"]
    coarse: Float[Tensor, "objects masks rows cols"] | None = None

    def best(self) -> "MaskPrediction":
        """Keep the alternative with the highest predicted IoU."""
        index = self.iou.argmax(dim=1)
        rows = torch.arange(len(index), device=index.device)
        return MaskPrediction(self.logits[rows, index][:, None], self.iou[rows, index][:, None])
