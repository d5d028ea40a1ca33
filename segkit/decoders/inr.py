"""Masks as continuous functions of position (I-MedSAM's decoder)."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.decoders.base import Decoder, select
from segkit.decoders.inr_field import (
    CODE,
    ImplicitField,
    Places,
    Samples,
    coordinate_code,
    unmasking,
)
from segkit.decoders.sam2_mask import without_memory
from segkit.decoders.two_way import two_way
from segkit.typing import BackboneSpec, Features, MaskPrediction, PromptTokens

Trained = Literal["field", "all"]
Size = tuple[int, ...]
Levels = Float[Tensor, "objects c *size"]


@dataclass(frozen=True, slots=True, eq=False)
class MaskField:
    """Mask logits of some objects as a function of position.

    Positions are in array order, (row, column) or (depth, row, column), each from -1 at the first
    edge of the model input to 1 at the last; a pixel j of n lies at (2 j + 1) / n - 1. The value at
    a position depends on nothing else, so a mask may be asked for in any pieces and at any
    resolution. `threshold` is the uncertainty from which on logits are refined; `share` is that of
    the cells that the input covers per axis, where they were padded.
    """

    net: ImplicitField
    cells: Levels
    positions: Levels | None
    weights: Float[Tensor, " code"]
    threshold: Float[Tensor, "objects masks"] | None = None
    share: tuple[float, ...] | None = None

    def query(self, points: Float[Tensor, "points axes"]) -> Float[Tensor, "objects masks points"]:
        """Logits at positions."""
        samples = self.samples(points)
        return (
            self.net(samples)[1] if self.threshold is None else self.net.at(samples, self.threshold)
        )

    def render(
        self, size: Size, area: tuple[float, ...] | None = None
    ) -> Float[Tensor, "objects masks *size"]:
        """Logits on a regular grid of `size` over the input, or over its first `area` share."""
        points = centres(size, area).to(self.cells.device)
        if self.threshold is not None:
            return self.query(points).unflatten(2, size)
        samples = self.samples(points, released_code_points(size).to(points))
        return self.net(samples)[1].unflatten(2, size)

    def samples(
        self,
        points: Float[Tensor, "points axes"],
        code_points: Float[Tensor, "points axes"] | None = None,
    ) -> Samples | Places:
        """What the network reads at positions."""
        places = points if code_points is None else code_points
        flat = -1.0 if self.net.compat else 0.0  # depth of an image
        depth = places[:, :-2] if places.shape[1] == 3 else places.new_full((len(places), 1), flat)
        code = coordinate_code(torch.cat([depth, places[:, -2:]], 1), compat=self.net.compat)
        codes = code * self.weights
        if self.share is not None:
            points = (points + 1) * points.new_tensor(self.share) - 1
        read = Places(self.cells, self.positions, points, codes)
        if self.net.is_fused(read):
            return replace(read, codes=codes.to(self.cells.dtype))
        features = read.features
        return Samples(features, read.shared.to(features.dtype))


class InrDecoder(Decoder):
    """Decode a prompted object as a continuous function of position.

    Source: "I-MedSAM" (Wei et al., ECCV 2024, arXiv 2311.17081), section 3.3. SAM's transformer
    and upscaling make a feature map; a network reads the features at a point, the position code of
    the encoder and the code of the coordinate, gives a coarse logit, and refines it where it is
    among the `share` of points that are least certain. High frequencies of the coordinate are let
    in over the first `unmask_epochs` epochs. The transformer stays as it is (`trained="field"`),
    or learns too ("all"). Refined and coarse logits are trained: see `MaskPrediction.coarse`.

    Differences of the default: uncertainty is the variance that dropout before the head causes, in
    closed form, so it is there at evaluation too (the released code drops the outputs, logit
    included, and refines an arbitrary block once dropout is off); points are chosen per image, and
    in `field` by a threshold; frequencies are the paper's, unmasked from low to high; a coordinate
    is that of the pixel's centre; depth is real in volumes. `compat="authors"` is the released
    form; in a batch it chooses points over all images, as they do.

    On SAM 2 the finer feature levels take part. Levels of volumes, `[n c d h w]`, give
    three-dimensional fields. On the volumetric lift, whose prompt encoder has transformed the
    features already, they are projected and not enlarged. The IoU is the one the probabilities
    themselves lead to expect.

    Example:
        >>> from segkit.models import build
        >>> from segkit.typing import Prompts
        >>> segmenter = build.sam_tiny(decoder=InrDecoder).eval()
        >>> click = Prompts(torch.tensor([[[0.0, 20.0, 30.0]]]), torch.tensor([[1]]))
        >>> features = segmenter.encode(torch.rand(1, 3, 64, 96))
        >>> segmenter.decode(features, click, size=(100, 150)).logits.shape
        torch.Size([1, 1, 100, 150])
    """

    resolution_free = True
    progress: Tensor

    def __init__(
        self,
        module: nn.Module | BackboneSpec,
        *,
        width: int = 256,
        share: float = 0.125,
        unmask_epochs: int = 20,
        trained: Trained = "field",
        compat: Literal["authors"] | None = None,
    ) -> None:
        super().__init__()
        _check(width, share, unmask_epochs, trained, compat)
        self.unmask_epochs, self.compat = unmask_epochs, compat
        self.register_buffer("progress", torch.tensor(1.0))
        self.is_sam2 = hasattr(module, "conv_s0")
        self.project: nn.Conv3d | None = None
        if isinstance(module, BackboneSpec):
            self.stride, channels, codes = module.out_stride, module.out_dim // 8, CODE
            self.project = nn.Conv3d(module.out_dim, channels, 1)
        else:
            channels, codes = self._take(module, trained)
        self.field_net = ImplicitField(channels, codes, width=width, share=share, compat=compat)

    def _take(self, upstream: Any, trained: Trained) -> tuple[int, int]:
        """Keep SAM's own modules; returns the channels of features and the width of codes."""
        self.transformer = upstream.transformer
        self.output_upscaling = upstream.output_upscaling
        self.iou_token, self.mask_tokens = upstream.iou_token, upstream.mask_tokens
        frozen = [self.transformer, self.iou_token, self.mask_tokens]
        if self.is_sam2:
            # run by the backbone, kept here to be trained and stored with the decoder
            self.high_res = nn.ModuleList([upstream.conv_s0, upstream.conv_s1])
            self.no_mem_embed = upstream.no_mem_embed.requires_grad_(False)
            self.obj_score_token = upstream.obj_score_token
            frozen.append(self.obj_score_token)
        for part in frozen:
            part.requires_grad_(trained == "all")
        return self.output_upscaling[3].out_channels, upstream.transformer_dim + CODE

    @override
    def begin_epoch(self, epoch: int) -> None:
        self.progress.fill_(min(1.0, (epoch + 1) / self.unmask_epochs))

    @override
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
        size: Size | None = None,
        area: tuple[float, ...] | None = None,
    ) -> MaskPrediction:
        """Decode at four cells per embedding cell, or at `size`, over all or `area` of the input.

        `area` is the share of the input, per axis and from its first edge, that `size` covers. One
        mask per object: there are no alternatives.
        """
        if size is not None:
            logits = self.field(features, prompts, image_index).render(size, area)
            return MaskPrediction(logits, expected_iou(logits))
        field = self._open(features, prompts, image_index)
        native = tuple(field.cells.shape[2:])
        points = centres(native).to(field.cells.device)
        code_points = released_code_points(native).to(points) if self.compat else None
        coarse, fine = self.field_net(field.samples(points, code_points))
        fine = fine.unflatten(2, native)
        return MaskPrediction(fine, expected_iou(fine), coarse.unflatten(2, native))

    def field(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
    ) -> MaskField:
        """The masks of the prompted objects, to be asked for at any position."""
        field = self._open(features, prompts, image_index)
        if self.compat:
            return field
        points = centres(tuple(field.cells.shape[2:])).to(field.cells.device)
        threshold = self.field_net.threshold(field.samples(points))
        return replace(field, threshold=threshold)

    def query(
        self,
        features: Features,
        points: Float[Tensor, "points axes"],
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
    ) -> Float[Tensor, "objects masks points"]:
        """Logits at positions in [-1, 1]; see `MaskField`."""
        return self.field(features, prompts, image_index).query(points)

    def _open(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None,
    ) -> MaskField:
        if self.project is not None:
            return self._open_lifted(self.project, features, prompts)
        if self.is_sam2:
            features = without_memory(features, self.no_mem_embed)
        objects, level = len(prompts.sparse), features.levels[-1]
        axes = level.ndim - 2
        image = _selected(level, objects, image_index) + _with_axes(prompts.dense, axes)
        positions = _with_axes(prompts.positions, axes).expand(-1, -1, *image.shape[2:])
        output = torch.cat([token.weight for token in self._tokens()])
        tokens = torch.cat([output.expand(objects, -1, -1), prompts.sparse], dim=1)
        _, cells = two_way(self.transformer, image, positions, tokens)
        cells = cells.transpose(1, 2).unflatten(2, image.shape[2:])
        finer = None
        if self.is_sam2:
            finer = [_selected(one, objects, image_index) for one in features.levels[1::-1]]
        cells = _upscaled(self.output_upscaling, cells, finer)
        return MaskField(self.field_net, cells, positions, self._weights())

    def _open_lifted(
        self, project: nn.Conv3d, features: Features, prompts: PromptTokens
    ) -> MaskField:
        """Field of a volume whose prompts are in the dense map already, or of all its classes."""
        cells = project(features.levels[-1] if self.is_automatic else prompts.dense)
        covered = [side * self.stride for side in cells.shape[2:]]
        share = tuple(a / b for a, b in zip(features.grid.shape, covered, strict=True))
        return MaskField(self.field_net, cells, None, self._weights(), share=share)

    def _weights(self) -> Float[Tensor, " code"]:
        # the released code shows all of the code at test time, whatever was learned
        is_whole = self.compat is not None and not self.training
        progress = torch.ones_like(self.progress) if is_whole else self.progress
        return unmasking(progress, compat=self.compat)

    def _tokens(self) -> list[nn.Embedding]:
        tokens = [self.iou_token, self.mask_tokens]
        return [self.obj_score_token, *tokens] if self.is_sam2 else tokens


class InrClassDecoder(InrDecoder):
    """Decode all classes of an image as continuous functions of position, without prompts.

    As `InrDecoder`, with one coarse and one fine head per class; background has logit 0. Without
    prompts to steer it, the transformer learns too by default.

    Example:
        >>> from segkit.models import build
        >>> segmenter = build.sam_tiny(decoder=InrClassDecoder, classes=2).eval()
        >>> segmenter(torch.rand(2, 3, 64, 64)).logits.shape
        torch.Size([2, 2, 32, 32])
    """

    is_automatic = True

    def __init__(
        self,
        module: nn.Module | BackboneSpec,
        *,
        classes: int = 1,
        width: int = 256,
        share: float = 0.125,
        unmask_epochs: int = 20,
        trained: Trained = "all",
        compat: Literal["authors"] | None = None,
    ) -> None:
        if classes < 1:
            raise ValueError(f"classes must be >= 1 without the background, got {classes}")
        super().__init__(
            module,
            width=width,
            share=share,
            unmask_epochs=unmask_epochs,
            trained=trained,
            compat=compat,
        )
        self.classes = classes
        self.field_net.add_masks(classes - 1)


def centres(
    size: Size, area: tuple[float, ...] | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "points axes"]:
    """Positions of the pixels of a regular grid over the first `area` share of the input."""
    shares = area or (1.0,) * len(size)
    axes = [
        (2 * torch.arange(count, dtype=dtype, device="cpu") + 1) / count * share - 1
        for count, share in zip(size, shares, strict=True)
    ]
    return torch.cartesian_prod(*axes)


def released_code_points(
    size: Size, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "points axes"]:
    """Coordinates as the released code sees them: the first and last pixel at -1 and 1."""
    axes = [torch.linspace(-1, 1, count, dtype=dtype, device="cpu") for count in size]
    return torch.cartesian_prod(*axes)


def expected_iou(logits: Float[Tensor, "objects masks *size"]) -> Float[Tensor, "objects masks"]:
    """IoU to expect if the probabilities are right: expected overlap over expected union."""
    p = logits.detach().float().sigmoid().flatten(2)
    inside = (p > 0.5).to(p)
    union = inside.sum(2) + (p * (1 - inside)).sum(2)
    return ((p * inside).sum(2) / union.clamp_min(1e-6)).to(logits.dtype)


def _upscaled(upscaling: nn.Sequential, cells: Levels, finer: list[Levels] | None) -> Levels:
    """Enlarge four times in the plane, slice by slice in volumes; see SAM's mask decoder."""
    first, norm, act, second, last_act = upscaling
    depth = cells.shape[2] if cells.ndim == 5 else 0
    if depth:
        cells = cells.transpose(1, 2).flatten(0, 1)
    x = first(cells)
    x = act(norm(x if finer is None else x + finer[0]))
    x = second(x)
    x = last_act(x if finer is None else x + finer[1])
    return x.unflatten(0, (-1, depth)).transpose(1, 2) if depth else x


def _selected(level: Levels, objects: int, image_index: Int[Tensor, " objects"] | None) -> Levels:
    if level.ndim == 4:
        return select(level, objects, image_index)
    flat = select(level.flatten(2)[..., None], objects, image_index)
    return flat[..., 0].unflatten(2, level.shape[2:])


def _with_axes(maps: Levels, axes: int) -> Levels:
    """Maps in the plane serve every slice of a volume."""
    return maps[:, :, None] if maps.ndim == axes + 1 else maps


def _check(width: int, share: float, epochs: int, trained: str, compat: str | None) -> None:
    if width < 2:
        raise ValueError(f"width must be >= 2, got {width}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    if epochs < 1:
        raise ValueError(f"unmask_epochs must be >= 1, got {epochs}")
    if trained not in get_args(Trained):
        raise ValueError(f"trained must be one of {get_args(Trained)}, got {trained!r}")
    if compat not in (None, "authors"):
        raise ValueError(f"compat must be None or 'authors', got {compat!r}")
