"""Light convolutional decoder of a volume's feature levels (3DSAM-adapter)."""

from typing import ClassVar, Literal, cast

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.decoders.base import Decoder
from segkit.typing import BackboneSpec, Features, MaskPrediction, PromptTokens

Volumes = Float[Tensor, "n c d h w"]


class MultilevelDecoder(Decoder):
    """Decode one mask per prompted object from four feature levels and the grey volume.

    Source: "3DSAM-adapter" (Gong et al., Medical Image Analysis 2024, arXiv 2306.13465),
    multi-layer aggregation. The prompt encoder hands over the deepest level as the prompts changed
    it. Everything else is computed once per volume, whatever the number of objects and of clicks:
    the convolution of joined maps is the sum of the convolutions of each, and `settle` keeps that
    of all maps but the deepest, at two cells per token, in their place.

    There is no head that predicts the IoU: `iou` is the IoU to be expected if the probabilities of
    the mask are right. There are no alternatives either, so `multimask` changes nothing.
    `compat="authors"` enlarges maps with aligned corners, as released; by default voxel areas stay
    aligned.

    Example:
        >>> from segkit.models import build
        >>> segmenter = build.sam3d_tiny()
        >>> features = segmenter.encode(torch.rand(8, 3, 32, 32), Grid((8, 32, 32)))
        >>> from segkit.typing import Prompts
        >>> click = Prompts(torch.tensor([[[4.0, 20.0, 9.0]]]), torch.tensor([[1]]))
        >>> segmenter.decode(features, click).logits.shape
        torch.Size([1, 1, 8, 32, 32])
    """

    is_automatic: ClassVar[bool] = False
    classes = 1

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        levels: int = 4,
        channels: int | None = None,
        compat: Literal["authors"] | None = None,
    ) -> None:
        super().__init__()
        if compat not in (None, "authors"):
            raise ValueError(f"compat must be None or 'authors', got {compat!r}")
        if spec.dimensions != 3:
            raise ValueError(f"this decoder needs a volumetric backbone, got {spec.name!r}")
        width = channels or spec.out_dim // 2
        self.stride, self.is_corner_aligned = spec.out_stride, compat == "authors"
        self.heads = nn.ModuleList(
            nn.Sequential(*_normed(spec.out_dim, width), *_normed(width, width))
            for _ in range(levels)
        )
        self.joined = nn.Sequential(
            *_normed(levels * width + 1, width),
            nn.Conv3d(width, 1 + self.classes, 3, padding=1, bias=False),
        )

    @override
    def settle(self, features: Features) -> Features:
        if self.is_automatic or self._is_settled(features):
            return features
        return Features((self._shared(features), features.levels[-1]), features.grid)

    @override
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
    ) -> MaskPrediction:
        if self.is_automatic:
            shared = self._shared(features)
        else:
            shared = self.settle(features).levels[0]
            if image_index is not None:
                shared = shared[image_index]
            shared = shared + self._part(len(self.heads) - 1, prompts.dense)
        _, norm, act, last = list(self.joined)
        scores = last(act(norm(shared)))
        logits = self._enlarged(scores[:, 1:] - scores[:, :1], self.stride // 2)
        depth, height, width = features.grid.shape
        logits = logits[:, :, :depth, :height, :width]
        return MaskPrediction(logits, _expected_iou(logits))

    def _is_settled(self, features: Features) -> bool:
        grey = features.levels[0]
        return len(features.levels) == 2 and grey.shape[1] > 1

    def _shared(self, features: Features) -> Volumes:
        """What all objects of a volume have in common."""
        grey, *levels = features.levels
        weight = cast(nn.Conv3d, self.joined[0]).weight
        total = F.conv3d(grey, weight[:, -1:], padding=1)
        for index, level in enumerate(levels if self.is_automatic else levels[:-1]):
            total = total + self._part(index, level)
        return total

    def _part(self, index: int, level: Volumes) -> Volumes:
        """What one level adds to the joined map."""
        kernels = cast(nn.Conv3d, self.joined[0]).weight[:, :-1].chunk(len(self.heads), dim=1)
        return F.conv3d(self._enlarged(self.heads[index](level), 2), kernels[index], padding=1)

    def _enlarged(self, maps: Volumes, factor: int) -> Volumes:
        if factor == 1:
            return maps
        size = [side * factor for side in maps.shape[2:]]
        return F.interpolate(
            maps, size=size, mode="trilinear", align_corners=self.is_corner_aligned
        )


class MultilevelClasses(MultilevelDecoder):
    """Decode all classes of a volume without prompts; background has logit 0.

    The automatic variant of 3DSAM-adapter, for any number of classes.

    Example:
        >>> from segkit.models import build
        >>> segmenter = build.sam3d_tiny(classes=3)
        >>> segmenter(torch.rand(8, 3, 32, 32), grid=Grid((8, 32, 32))).logits.shape
        torch.Size([1, 3, 8, 32, 32])
    """

    is_automatic = True

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        classes: int = 1,
        levels: int = 4,
        channels: int | None = None,
        compat: Literal["authors"] | None = None,
    ) -> None:
        if classes < 1:
            raise ValueError(f"classes must be >= 1 without the background, got {classes}")
        self.classes = classes
        super().__init__(spec, levels=levels, channels=channels, compat=compat)


def _normed(dim_in: int, dim_out: int) -> list[nn.Module]:
    conv = nn.Conv3d(dim_in, dim_out, 3, padding=1, bias=False)
    return [conv, nn.InstanceNorm3d(dim_out), nn.ReLU()]


def _expected_iou(logits: Volumes) -> Float[Tensor, "n c"]:
    """Overlap of the mask with the object its own probabilities expect; 0 for an empty mask."""
    share, is_inside = logits.detach().sigmoid(), logits.detach() > 0
    inside = (share * is_inside).sum((2, 3, 4))
    outside = share.sum((2, 3, 4)) - inside
    return inside / (is_inside.sum((2, 3, 4)) + outside).clamp(min=1e-6)
