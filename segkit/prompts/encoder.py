"""SAM's prompt encoder for batches of mixed prompts and any input size."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from segment_anything.modeling import PromptEncoder as UpstreamPromptEncoder
from torch import Tensor
from typing_extensions import override

from segkit.errors import InputError
from segkit.prompts.base import PromptEncoder
from segkit.prompts.drawing import draw_marks, first_logits
from segkit.prompts.positions import PositionCodes
from segkit.typing import BOX_FIRST, PADDING, Prompts, PromptTokens, Sketch

Trained = Literal["none", "no_mask", "all"]


class SamPromptEncoder(PromptEncoder):
    """Encode points, boxes and masks with the weights of SAM's own prompt encoder.

    Source: "Segment Anything" (Kirillov et al., ICCV 2023), appendix A. Equal to the official
    encoder for points, boxes, points before boxes, and masks. Differences: coordinates are
    normalised by the size of the actual input, so that any size works; a box is two points
    labelled 2 and 3 in the same list.

    The official encoder appends one padding point when there is no box. Here it is appended unless
    every object of the batch has a box. In a mixed batch an object with a box therefore sees
    padding tokens that it would not see alone; its mask differs slightly from the one it gets
    alone. Batches of one kind, and objects that need padding only in their own last place, do not
    differ.

    A model that draws its prompts (`SamSizes.draws_prompts`, no model of SAM's own) gets marks and
    earlier masks as one drawing, `segkit.prompts.drawing`, in place of the mask; objects without
    any mark keep the token for "no mask".

    `trained`: "none" keeps SAM's weights, "no_mask" trains the token that stands for "no mask"
    (as SAM-Adapter does), "all" trains every weight.

    Example:
        >>> from segment_anything.modeling import PromptEncoder
        >>> encoder = SamPromptEncoder(PromptEncoder(32, (8, 8), (64, 64), 16))
        >>> click = Prompts(torch.tensor([[[0.0, 20.0, 30.0]]]), torch.tensor([[1]]))
        >>> encoder(click, (64, 96)).dense.shape
        torch.Size([1, 32, 8, 12])
    """

    pads_boxes: ClassVar[bool] = False
    """Whether objects with a box get the padding point too (SAM 2)."""

    def __init__(self, module: UpstreamPromptEncoder, *, trained: Trained = "none") -> None:
        super().__init__()
        if trained not in (allowed := ("none", "no_mask", "all")):
            raise ValueError(f"trained must be one of {allowed}, got {trained!r}")
        self.module = module
        self.draws: bool = getattr(module, "draws_prompts", False)
        self.stride = module.input_image_size[0] // module.image_embedding_size[0]
        module.requires_grad_(trained == "all")
        module.no_mask_embed.requires_grad_(trained != "none")
        self._known_positions = PositionCodes(module.pe_layer)

    @override
    def forward(self, prompts: Prompts, size: tuple[int, int]) -> PromptTokens:
        """Encode marks; `size` is height and width of the model input in pixels.

        Raises:
            InputError: No mark at all, or masks of a wrong size or type.
        """
        count, points = prompts.labels.shape
        if points == 0 and prompts.masks is None:
            raise InputError(
                "no prompt: neither a point, a box nor a mask was given",
                fix="add one, or use a model for the automatic mode",
                code="no_prompt",
            )
        sparse = self._points(prompts.points, prompts.labels, size)
        if prompts.masks is not None:
            self._check_masks(prompts.masks, count, size)
        if self.draws:
            return self._drawn(prompts, sparse, size)
        positions = self._positions(size)
        if prompts.masks is None:
            return PromptTokens(sparse, self._no_mask(count, size), positions)
        *steps, last = self.module.mask_downscaling
        values = prompts.masks
        for step in steps:
            values = step(values)
        sketch = Sketch(values, last.weight.flatten(1), last.bias)
        return PromptTokens(sparse, last(values), positions, sketch=sketch)

    @override
    def empty(self, count: int, size: tuple[int, int]) -> PromptTokens:
        sparse = self.module.no_mask_embed.weight.new_zeros(count, 0, self.module.embed_dim)
        return PromptTokens(sparse, self._no_mask(count, size), self._positions(size))

    def _points(
        self,
        points: Float[Tensor, "objects points 3"],
        labels: Int[Tensor, "objects points"],
        size: tuple[int, int],
    ) -> Float[Tensor, "objects tokens dim"]:
        is_padded = self.pads_boxes or not (labels >= BOX_FIRST).any(dim=1).all()
        if labels.shape[1] and is_padded:
            points = torch.cat([points, points.new_zeros(len(points), 1, 3)], dim=1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), PADDING)], dim=1)
        # SAM counts from pixel corners and in (x, y)
        coordinates = points[..., [2, 1]] + 0.5
        tokens = self.module.pe_layer.forward_with_coords(coordinates, size)
        kinds = torch.cat(
            [self.module.not_a_point_embed.weight]
            + [embedding.weight for embedding in self.module.point_embeddings]
        )
        tokens = tokens * (labels != PADDING)[..., None]
        return tokens + kinds[labels + 1]

    def _drawn(
        self, prompts: Prompts, sparse: Float[Tensor, "objects tokens dim"], size: tuple[int, int]
    ) -> PromptTokens:
        rows, cols = self._cells(size)
        drawn = draw_marks(
            prompts.points, prompts.labels, (4 * rows, 4 * cols), self.stride / 4, prompts.masks
        ).to(sparse.dtype)
        dense = self.module.mask_downscaling(drawn)
        if prompts.masks is None:
            is_marked = (prompts.labels != PADDING).any(dim=1).view(-1, 1, 1, 1)
            dense = torch.where(is_marked, dense, self._no_mask(len(dense), size))
        start = first_logits(drawn, has_mask=prompts.masks is not None)
        return PromptTokens(sparse, dense, self._positions(size), start)

    def _check_masks(
        self,
        masks: Float[Tensor, "objects 1 mask_rows mask_cols"],
        count: int,
        size: tuple[int, int],
    ) -> None:
        rows, cols = self._cells(size)
        expected = (count, 1, 4 * rows, 4 * cols)
        if tuple(masks.shape) != expected or not masks.is_floating_point():
            raise InputError(
                f"mask prompts must be floating-point logits of shape {expected}, got "
                f"{masks.dtype} of shape {tuple(masks.shape)}",
                fix="pass the logits of an earlier prediction, at the decoder's resolution",
            )

    def _no_mask(self, count: int, size: tuple[int, int]) -> Float[Tensor, "objects dim rows cols"]:
        return self.module.no_mask_embed.weight[:, :, None, None].expand(
            count, -1, *self._cells(size)
        )

    def _positions(self, size: tuple[int, int]) -> Float[Tensor, "1 dim rows cols"]:
        return self._known_positions(self._cells(size))

    def _cells(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // self.stride, size[1] // self.stride
