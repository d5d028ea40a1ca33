"""A backbone, a prompt encoder and a decoder: encode an image once, decode per prompt."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from segkit.backbones.base import Backbone, Stem
from segkit.backbones.checkpoints import KeyReport
from segkit.decoders.base import Decoder
from segkit.decoders.inr import InrDecoder, MaskField
from segkit.errors import CheckpointError, InputError
from segkit.models.recipe import TRAINABLE, Recipe, Trainable
from segkit.prompts.base import PromptEncoder
from segkit.typing import (
    BackboneSpec,
    Features,
    Grid,
    Image,
    MaskPrediction,
    Prompts,
    PromptTokens,
)


class Segmenter(nn.Module):
    """Promptable or automatic segmentation with a frozen encoder.

    `trainable`: "adapter" trains adapter and decoder, "decoder" the decoder alone, "all" also the
    encoder (the backbone must be built trainable). What adapter, decoder and prompt encoder freeze
    in their constructors stays frozen. `recipe` says how the parts were built; files need it.

    Example:
        >>> from segkit.models import build
        >>> segmenter = build.sam_tiny()
        >>> features = segmenter.encode(torch.rand(1, 3, 64, 64))
        >>> click = Prompts(torch.tensor([[[0.0, 20.0, 30.0]]]), torch.tensor([[1]]))
        >>> prediction = segmenter.decode(features, click, multimask=True)
        >>> prediction.logits.shape, prediction.best().logits.shape
        (torch.Size([1, 3, 32, 32]), torch.Size([1, 1, 32, 32]))
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt_encoder: PromptEncoder,
        decoder: Decoder,
        *,
        trainable: Trainable = "adapter",
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        if trainable not in TRAINABLE:
            raise ValueError(f"trainable must be one of {TRAINABLE}, got {trainable!r}")
        if backbone.trainable != (trainable == "all"):
            raise ValueError(
                f"trainable={trainable!r} needs a backbone built with "
                f"trainable={trainable == 'all'}, got {backbone.trainable}"
            )
        # the decoder first: what it shares with the backbone (SAM 2) goes by the decoder's name
        self.decoder, self.backbone, self.prompt_encoder = decoder, backbone, prompt_encoder
        self.recipe = recipe
        # what differs from the weight file of the backbone, whether trained in this run or before
        self._learned = tuple(name for name, _ in self._learned_tensors())
        if trainable == "decoder":
            for part in backbone.trained_parts.values():
                part.requires_grad_(False)

    @property
    def spec(self) -> BackboneSpec:
        """Sizes of the backbone."""
        return self.backbone.spec

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.backbone.device

    @property
    def is_automatic(self) -> bool:
        """Whether classes are segmented without prompts."""
        return self.decoder.is_automatic

    @override
    def forward(
        self, image: Image, prompts: Prompts | None = None, grid: Grid | None = None
    ) -> MaskPrediction:
        return self.decode(self.encode(image, grid), prompts)

    def encode(
        self, image: Image, grid: Grid | None = None, *, stem: Stem | None = None
    ) -> Features:
        """Encode images with values in [0, 1]; the expensive, cacheable half.

        Slices of volumes are folded into the batch axis and described by `grid`; without it every
        image stands alone. `stem` is what `backbone.stem` gave for them: the part that no training
        changes.

        Raises:
            InputError: Height or width is no multiple of the patch size, or does not fit the grid.
        """
        count, channels, *size = image.shape
        patch = self.spec.patch_size
        if channels != 3 or any(side < patch or side % patch for side in size):
            raise InputError(
                f"images must have shape (n, 3, height, width) with sides that are multiples of "
                f"{patch}, got {tuple(image.shape)}",
                fix="resize or pad them",
            )
        grid = grid or Grid((1, size[0], size[1]))
        if grid.size != tuple(size) or count % grid.depth:
            raise InputError(
                f"a grid of shape {grid.shape} does not describe images of shape "
                f"{tuple(image.shape)}",
                fix="fold whole volumes into the batch: n = volumes * depth",
            )
        given = () if stem is None else (stem,)
        return self.decoder.settle(self.backbone(image, grid, *given))

    def decode(
        self,
        features: Features,
        prompts: Prompts | None = None,
        *,
        multimask: bool = False,
        size: tuple[int, ...] | None = None,
        area: tuple[float, ...] | None = None,
    ) -> MaskPrediction:
        """Decode the prompted objects, or all classes of each image in automatic mode.

        `multimask` asks for alternatives, which a single click deserves; take `.best()` of them.
        `size` (rows and columns) asks for logits of that size, over the first `area` share of the
        input per axis; decoders without `resolution_free` give their own size all the same.

        Raises:
            InputError: Prompts are missing in interactive or present in automatic mode, or cannot
                be used.
        """
        tokens = self._tokens(features, prompts)
        options: dict[str, Any] = {}
        if self.decoder.resolution_free and size is not None:
            options = {"size": size, "area": area}
        if prompts is None:
            return self.decoder(features, tokens, **options)
        return self.decoder(features, tokens, prompts.image_index, multimask=multimask, **options)

    def field(self, features: Features, prompts: Prompts | None = None) -> MaskField:
        """Masks as continuous functions of position, of a decoder with `resolution_free`.

        Raises:
            InputError: The decoder has no such form, or as in `decode`.
        """
        if not isinstance(self.decoder, InrDecoder):
            raise InputError(
                f"{type(self.decoder).__name__} decodes masks of one resolution only",
                fix="use a model with the decoder InrDecoder or InrClassDecoder",
                code="no_field",
            )
        tokens = self._tokens(features, prompts)
        return self.decoder.field(
            features, tokens, None if prompts is None else prompts.image_index
        )

    def query(
        self,
        features: Features,
        points: Float[Tensor, "points axes"],
        prompts: Prompts | None = None,
    ) -> Float[Tensor, "objects masks points"]:
        """Logits at positions in [-1, 1]; see `segkit.decoders.MaskField`."""
        return self.field(features, prompts).query(points)

    def _tokens(self, features: Features, prompts: Prompts | None) -> PromptTokens:
        if self.is_automatic:
            if prompts is not None:
                raise InputError(
                    "this model segments its classes without prompts, got prompts",
                    fix="leave them out, or use an interactive model",
                    code="no_prompt_expected",
                )
            return self.prompt_encoder.tokens(features, None)
        if prompts is None:
            raise InputError(
                "this model needs prompts, got none",
                fix="add a point, a box or a mask, or use an automatic model",
                code="no_prompt",
            )
        _check_objects(len(prompts.labels), len(features.levels[-1]), prompts.image_index)
        return self.prompt_encoder.tokens(features, prompts)

    def trainable_state(self) -> dict[str, Tensor]:
        """Return all that differs from the weight file of the backbone, under `state_dict` names.

        These are the trained parameters and the buffers of adapter and decoder; never a frozen
        encoder.
        """
        tensors = dict(self._learned_tensors(self._learned))
        return {name: tensors[name].detach() for name in self._learned}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what `trainable_state` returned.

        Raises:
            CheckpointError: A key is missing, unexpected or mis-shaped, or a value is not finite.
        """
        own = self.trainable_state()
        if report := KeyReport.compare(own, state):
            raise CheckpointError(
                f"the trained weights do not fit this model: {report}",
                fix="build the model with the adapter and decoder they were trained with",
                code="keys_differ",
            )
        if bad := [name for name in own if not _is_finite(state[name])]:
            raise CheckpointError(
                f"{len(bad)} trained tensors hold NaN or infinite values, the first is {bad[0]}",
                fix="use an earlier checkpoint",
                code="not_finite",
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def _learned_tensors(
        self, names: tuple[str, ...] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Walk the tensors that belong in a file; shared ones once."""
        own = self.backbone.trained_parts.items()
        parts: dict[str, nn.Module] = {f"backbone.{name}": part for name, part in own}
        parts |= {"prompt_encoder": self.prompt_encoder, "decoder": self.decoder}
        if self.backbone.trainable:
            parts["backbone.encoder"] = self.backbone.encoder
        seen: set[int] = set()
        for prefix, part in parts.items():
            # the buffer of the prompt encoder is the position code of the weight file
            has_buffers = part is not self.prompt_encoder
            for key, tensor in part.state_dict(keep_vars=True).items():
                name = f"{prefix}.{key}"
                if isinstance(tensor, nn.Parameter):
                    is_learned = tensor.requires_grad if names is None else name in names
                else:
                    is_learned = has_buffers
                if is_learned and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield name, tensor


def upsample(
    logits: Float[Tensor, "n c *cells"], size: tuple[int, ...]
) -> Float[Tensor, "n c *size"]:
    """Bring mask logits to a size in pixels or voxels, linear; their areas stay aligned."""
    if logits.shape[2:] == size:
        return logits
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(logits, size=size, mode=mode, align_corners=False)


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite: extremes tell both, in one pass."""
    return not tensor.numel() or all(math.isfinite(one) for one in torch.aminmax(tensor))


def _check_objects(objects: int, images: int, image_index: Int[Tensor, " n"] | None) -> None:
    """Refuse objects whose image is not known."""
    if image_index is None and images not in (1, objects):
        raise InputError(
            f"{objects} objects lie on {images} images, and which on which is not said",
            fix="name the image of each object in Prompts.image_index",
        )
    if image_index is not None and len(image_index) != objects:
        raise InputError(f"image_index must name {objects} images, got {len(image_index)}")
