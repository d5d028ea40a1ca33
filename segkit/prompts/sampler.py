"""Prompts in a volume: marks read the features where they lie and write back into the map."""

import math
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from typing_extensions import override

from segkit.errors import InputError
from segkit.prompts.base import PromptEncoder
from segkit.prompts.nearness import drawn_marks
from segkit.typing import (
    BOX_FIRST,
    BOX_LAST,
    NEGATIVE,
    PADDING,
    POSITIVE,
    BackboneSpec,
    Features,
    Prompts,
    PromptTokens,
)

Tokens = Float[Tensor, "objects tokens dim"]
Cells = Float[Tensor, "objects cells dim"]


class PointSampler(PromptEncoder):
    """Encode marks on a volume by the features they lie on.

    Source: "3DSAM-adapter" (Gong et al., Medical Image Analysis 2024, arXiv 2306.13465), section on
    the visual sampler. A point is the feature at its position (trilinear). Points and learned
    queries look at each other and at the deepest feature map, and the map looks back at them; the
    changed map is what a decoder takes in place of the deepest level.

    Differences from the released code (`compat="authors"`): labels say whether a click adds or
    removes; Fourier codes say where tokens and cells are; tokens look at the map; the map looks at
    the points too, not only at the queries. Marks are also drawn into the map, because attention
    with random weights learns slowly where a mark lies: the code of a label fades with the distance
    to the nearest click of that label, to a half at `reach` cells; outside a box the code of
    background counts in full, inside both count by half; an earlier mask counts with its
    probability. Corners of boxes are coded by sum and difference of the two label codes, so boxes
    and masks need no parameters of their own.

    The released form knows points without labels, nothing else.

    Example:
        >>> from segkit.backbones import Sam3dBackbone
        >>> from segkit.adapters import Adapter
        >>> from segkit.typing import Grid
        >>> backbone = Sam3dBackbone.tiny(Adapter)
        >>> features = backbone(torch.rand(8, 3, 32, 32), Grid((8, 32, 32)))
        >>> click = Prompts(torch.tensor([[[4.0, 20.0, 9.0]]]), torch.tensor([[1]]))
        >>> PointSampler(backbone.spec).tokens(features, click).dense.shape
        torch.Size([1, 32, 2, 8, 8])
    """

    frequencies: Tensor

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        depth: int = 2,
        queries: int = 10,
        heads: int = 8,
        mlp: int | None = None,
        reach: float = 2.0,
        compat: Literal["authors"] | None = None,
    ) -> None:
        super().__init__()
        if not reach > 0:
            raise ValueError(f"reach must be > 0 cells, got {reach}")
        if compat not in (None, "authors"):
            raise ValueError(f"compat must be None or 'authors', got {compat!r}")
        dim = spec.out_dim
        self.stride, self.reach, self.compat = spec.out_stride, reach, compat
        self.layers = nn.ModuleList(
            PointLayer(dim, heads, mlp or 8 * dim, queries) for _ in range(depth)
        )
        if compat is None:
            # no smaller than the features they are added to: small codes are not heeded for long
            self.kinds = nn.Parameter(0.5 * torch.randn(2, dim))
            # numpy promises that this stream never changes, so files need not hold it
            drawn = np.random.RandomState(0).standard_normal((3, dim // 2))
            self.register_buffer("frequencies", torch.from_numpy(drawn).float(), persistent=False)

    @override
    def forward(self, prompts: Prompts, size: tuple[int, ...]) -> PromptTokens:
        """Encode what marks say without an image; `size` is (depth, height, width) in voxels.

        `dense` is what marks and earlier masks add to the deepest map, `positions` the code of its
        cells.

        Raises:
            InputError: No mark at all, masks of a wrong size, or marks the released form lacks.
        """
        self._check(prompts, size)
        cells = self._cells(size)
        kinds, positions = self._kinds(prompts.labels), self._cell_codes(cells)
        dense = torch.zeros_like(positions).expand(len(kinds), -1, -1, -1, -1)
        if self.compat is None:
            dense = dense + self._coloured(*drawn_marks(prompts, cells, self.stride, self.reach))
        if prompts.masks is not None:
            dense = dense + self._believed(prompts.masks, cells)
        return PromptTokens(kinds, dense, positions)

    @override
    def empty(self, count: int, size: tuple[int, ...]) -> PromptTokens:
        """Refuse: without a mark there is nothing to look for.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "this prompt encoder needs a point, a box or a mask",
            fix="build an automatic model with classes=K",
            code="no_prompt",
        )

    @override
    def tokens(self, features: Features, prompts: Prompts | None) -> PromptTokens:
        """Encode marks on the features they were made on; `dense` is the changed deepest map.

        Raises:
            InputError: As `forward`.
        """
        if prompts is None:
            return self.empty(len(features.levels[-1]), features.grid.shape)
        marks = self(prompts, features.grid.shape)
        deepest = features.levels[-1]
        if prompts.image_index is not None:
            deepest = deepest[prompts.image_index]
        deepest = deepest + marks.dense
        extent = [side * self.stride for side in deepest.shape[2:]]
        place = (prompts.points + 0.5) / prompts.points.new_tensor(extent)  # 0 to 1, (k, j, i)
        points = _sampled(deepest, place) + marks.sparse
        codes = self._code(place)
        image = deepest.flatten(2).transpose(1, 2)
        cell_codes = marks.positions.flatten(2).transpose(1, 2)
        is_mark = prompts.labels != PADDING
        for layer in cast(Any, self.layers):
            if self.compat == "authors":
                image, points = layer.as_released(image, points)
            else:
                image, points = layer(image, points, (cell_codes, codes), is_mark)
        dense = image.transpose(1, 2).unflatten(2, deepest.shape[2:])
        return PromptTokens(points, dense, marks.positions)

    def _kinds(self, labels: Int[Tensor, "objects points"]) -> Tokens:
        if self.compat == "authors":
            return self._like.new_zeros(*labels.shape, self._like.shape[-1])
        removes, adds = self.kinds
        table = {
            NEGATIVE: removes,
            POSITIVE: adds,
            BOX_FIRST: adds + removes,
            BOX_LAST: adds - removes,
        }
        codes = torch.stack([table[kind] for kind in sorted(table)])
        return codes[labels.clamp(min=0)] * (labels != PADDING)[..., None]

    def _believed(
        self, masks: Float[Tensor, "objects 1 d h w"], cells: tuple[int, int, int]
    ) -> Float[Tensor, "objects dim depth rows cols"]:
        sides = zip(reversed(cells), reversed(masks.shape[2:]), strict=True)
        missing = [side * self.stride - have for side, have in sides]
        share = F.pad(masks.sigmoid(), [n for gap in missing for n in (0, gap)])
        share = F.avg_pool3d(share, self.stride)
        return self._coloured(share, 1 - share)

    def _coloured(
        self, added: Float[Tensor, "objects 1 d h w"], removed: Float[Tensor, "objects 1 d h w"]
    ) -> Float[Tensor, "objects dim d h w"]:
        """Shares of object and background in the codes of the two labels."""
        removes, adds = self.kinds[:, :, None, None, None]
        return added.to(adds) * adds + removed.to(removes) * removes

    def _cell_codes(self, cells: tuple[int, int, int]) -> Float[Tensor, "1 dim d h w"]:
        axes = [(torch.arange(n, device=self._like.device) + 0.5) / n for n in cells]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        return self._code(place[None]).permute(0, 4, 1, 2, 3)

    def _code(self, place: Float[Tensor, "... 3"]) -> Float[Tensor, "... dim"]:
        """Fourier code of positions between 0 and 1, as SAM's."""
        like = self._like
        if self.compat == "authors":
            return like.new_zeros(*place.shape[:-1], like.shape[-1])
        angle = 2 * math.pi * (2 * place.to(self.frequencies) - 1) @ self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like)

    @property
    def _like(self) -> Tensor:
        return cast(PointLayer, self.layers[0]).global_query

    def _cells(self, size: tuple[int, ...]) -> tuple[int, int, int]:
        d, h, w = (-(-side // self.stride) for side in size)
        return d, h, w

    def _check(self, prompts: Prompts, size: tuple[int, ...]) -> None:
        if not prompts.labels.shape[1] and prompts.masks is None:
            raise InputError(
                "no prompt: neither a point, a box nor a mask was given",
                fix="add one, or use a model for the automatic mode",
                code="no_prompt",
            )
        expected = (len(prompts.labels), 1, *size)
        found = None if prompts.masks is None else tuple(prompts.masks.shape)
        if found not in (None, expected):
            raise InputError(
                f"mask prompts must be logits of shape {expected}, got {found}",
                fix="pass the logits of an earlier prediction",
            )
        if self.compat == "authors" and found is not None:
            raise InputError(
                "the released form of 3DSAM-adapter takes points only, got a mask",
                fix="use points, or a model of segkit's own form",
                code="unsupported_prompt",
            )


class PointLayer(nn.Module):
    """One layer of a two-way transformer with learned queries of its own; SAM's modules."""

    def __init__(self, dim: int, heads: int, mlp: int, queries: int) -> None:
        super().__init__()
        self.global_query = nn.Parameter(0.1 * torch.randn(1, queries, dim))
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, downsample_rate=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, downsample_rate=2)

    @override
    def forward(
        self,
        image: Cells,
        points: Tokens,
        codes: tuple[Cells, Tokens],
        is_mark: Bool[Tensor, "objects points"],
    ) -> tuple[Cells, Tokens]:
        """Return map and points; `codes` are the positions of both, padding is not looked at."""
        queries = self.global_query.expand(len(image), -1, -1)
        count = queries.shape[1]
        is_token = F.pad(is_mark, (count, 0), value=True)[:, None, None]
        cells, places = codes[0], F.pad(codes[1], (0, 0, count, 0))
        x = torch.cat([queries, points], dim=1)
        placed = x + places
        x = self.norm1(x + _attend(self.self_attn, placed, placed, x, is_token))
        seen = _attend(self.cross_attn_token_to_image, x + places, image + cells, image)
        x = self.norm2(x + seen)
        x = self.norm3(x + self.mlp(x))
        answer = _attend(self.cross_attn_image_to_token, image + cells, x + places, x, is_token)
        return self.norm4(image + answer), x[:, count:]

    def as_released(self, image: Cells, points: Tokens) -> tuple[Cells, Tokens]:
        """Let points act on the queries alone and the queries on the map, without positions."""
        x = torch.cat([self.global_query.expand(len(points), -1, -1), points], dim=1)
        x = self.norm2(x + self.norm1(_attend(self.self_attn, x, x, x)))
        count = self.global_query.shape[1]
        queries, points = x[:, :count], x[:, count:]
        queries = self.norm3(queries + self.mlp(queries))
        answer = _attend(self.cross_attn_image_to_token, image, queries, queries)
        return self.norm4(image + answer), points


def _attend(
    attn: Attention, q: Tensor, k: Tensor, v: Tensor, is_key: Bool[Tensor, "..."] | None = None
) -> Tensor:
    heads = [
        layer(x).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        for layer, x in ((attn.q_proj, q), (attn.k_proj, k), (attn.v_proj, v))
    ]
    out = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=is_key)
    return attn.out_proj(out.transpose(1, 2).flatten(2))


def _sampled(
    maps: Float[Tensor, "objects dim d h w"], place: Float[Tensor, "objects points 3"]
) -> Tokens:
    """Trilinear features at positions (k, j, i) between 0 and 1."""
    grid = (2 * place - 1).flip(-1)[:, None, None].to(maps)  # torch wants (x, y, z)
    found = F.grid_sample(maps.expand(len(place), -1, -1, -1, -1), grid, align_corners=False)
    return found[:, :, 0, 0].transpose(1, 2)
