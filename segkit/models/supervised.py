"""Supervised networks as models of segkit: built, trained, saved and measured like adapted ones."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from segkit.adapters.base import Adapter
from segkit.backbones.base import Backbone
from segkit.backbones.checkpoints import KeyReport, read_weights
from segkit.baselines.network import (
    Body,
    NetworkOptions,
    Sizes,
    axes,
    input_channels,
    make_body,
    make_heads,
)
from segkit.baselines.stunet import STU_NET_TINY, STU_NETS, StuNetBody
from segkit.baselines.transfer import fit_stem, without_heads
from segkit.baselines.unet import UNETS
from segkit.decoders.base import Decoder
from segkit.decoders.linear import LinearDecoder
from segkit.errors import CheckpointError
from segkit.models.recipe import BackboneOrigin, Part, Recipe, Trainable
from segkit.models.segmenter import Segmenter
from segkit.prompts.base import PromptEncoder
from segkit.prompts.none import NoPrompts
from segkit.typing import BackboneSpec, Features, Grid, Image

_log = logging.getLogger(__name__)

ENCODER = "backbone.encoder."
"""Prefix of the network's own parameter names in files of segkit."""
PUBLISHED_CLASSES = 104  # the structures of TotalSegmentator, version 1


class SupervisedBackbone(Backbone):
    """A U-Net in the place of a frozen encoder; all of it is trained.

    It has no blocks for an adapter to act on. Its features are the maps before its output layers,
    `[volumes c d h w]` in three dimensions. The input is brought to mean 0 and deviation 1 per
    picture or block. Of three equal or neighbouring channels a network with one input channel sees
    the middle one.
    """

    encoder: Body

    def __init__(
        self,
        body: Body,
        spec: BackboneSpec,
        adapter: Callable[[BackboneSpec], nn.Module] = Adapter,
        *,
        in_channels: int,
    ) -> None:
        super().__init__(body, spec, adapter, trainable=True)
        self.in_channels = in_channels

    @classmethod
    @override
    def tiny(cls, adapter: Callable[[BackboneSpec], nn.Module]) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            body = StuNetBody(STU_NET_TINY)
        return cls(body, _spec(STU_NET_TINY, body, 64), adapter, in_channels=1)

    @override
    def forward(self, image: Image, grid: Grid) -> Features:
        """Encode pictures, or volumes folded into the batch axis.

        Raises:
            ValueError: A side of the input is no multiple of the down-samplings of its axis.
        """
        x = image
        if self.spec.dimensions == 3:
            x = image.unflatten(0, (-1, grid.depth)).transpose(1, 2)  # [volumes 3 d h w]
        if self.in_channels == 1:
            x = x[:, 1:2]
        return Features(tuple(self.encoder(_standardised(x))), grid)


@dataclass(frozen=True, slots=True)
class SupervisedBuilder:
    """Callable that builds a `Segmenter` around one network."""

    sizes: Sizes
    summary: str
    source: str
    classes: int = 1
    weights: ClassVar[str] = "none"
    """Nothing is frozen: the file of a trained model holds all of the network."""

    def __call__(
        self,
        *,
        checkpoint: str | Path | None = None,
        adapter: Callable[[BackboneSpec], nn.Module] = Adapter,
        decoder: Callable[..., Decoder] | None = None,
        prompt_encoder: Callable[..., PromptEncoder] | None = None,
        classes: int | None = None,
        trainable: Trainable = "all",
        image_size: int | None = None,
        network: NetworkOptions | Mapping[str, object] | None = None,
    ) -> Segmenter:
        """Build a network for `classes` classes besides the background.

        `checkpoint` None or "random:SEED" draws the weights; a safetensors file (of
        `segkit convert --from stu-net`, or `adapter.safetensors` of a run with the same network)
        gives all but the output layers, which are new. `image_size` is the nominal side of the
        input, `network` what the data set decides.

        Raises:
            CheckpointError: The file does not fit the network.
            ValueError: An adapter was asked for, or only a part is to be trained.
        """
        self._check(adapter, trainable)
        options = _options(network)
        make_prompts, make_decoder = prompt_encoder or NoPrompts, decoder or LinearDecoder
        if classes is not None or decoder is None:
            make_decoder = partial(make_decoder, classes=classes or self.classes)
        body, heads = self._draw(checkpoint, options)
        if checkpoint is not None and not _is_random(checkpoint):
            _load(body, Path(checkpoint), options)
        spec = _spec(self.sizes, body, image_size)
        plain = {"network": values} if (values := options.to_dict()) else {}
        return Segmenter(
            SupervisedBackbone(
                body, spec, adapter, in_channels=input_channels(self.sizes, options)
            ),
            make_prompts(),
            make_decoder(heads),
            trainable=trainable,
            recipe=Recipe(
                BackboneOrigin(self.name, self.sha256, spec.image_size, plain),
                adapter=Part.of(adapter),
                decoder=Part.of(make_decoder),
                prompt=Part.of(make_prompts),
                trainable=trainable,
            ),
        )

    @property
    def name(self) -> str:
        """Name of the builder and of the network."""
        return self.sizes.name

    @property
    def sha256(self) -> str:
        """Hash of the name: there are no frozen weights to tell apart."""
        return hashlib.sha256(f"segkit network {self.name}".encode()).hexdigest()

    def _check(self, adapter: Callable[..., nn.Module], trainable: Trainable) -> None:
        base = adapter.func if isinstance(adapter, partial) else adapter
        if base is not Adapter:
            raise ValueError(
                f"{self.name} has no frozen blocks for {base.__name__}; leave the adapter out"
            )
        if trainable != "all":
            raise ValueError(f"{self.name} is trained as a whole: trainable='all', not {trainable}")

    def _draw(
        self, checkpoint: str | Path | None, options: NetworkOptions
    ) -> tuple[Body, nn.ModuleList]:
        """The network and its output layers with weights from a seed, the same on every call."""
        seed = str(checkpoint).partition(":")[2] if _is_random(checkpoint) else ""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed or 0))
            return make_body(self.sizes, options), make_heads(self.sizes, self.classes + 1)


def _spec(sizes: Sizes, body: Body, image_size: int | None) -> BackboneSpec:
    return BackboneSpec(
        name=sizes.name,
        image_size=image_size or sizes.image_size,
        patch_size=max(body.divisor),
        blocks=(),
        out_dim=sizes.widths[0],
        out_stride=1,
        dimensions=axes(sizes),
    )


def _options(network: NetworkOptions | Mapping[str, object] | None) -> NetworkOptions:
    if isinstance(network, NetworkOptions):
        return network
    return NetworkOptions(**(network or {}))  # type: ignore[arg-type]


def _is_random(checkpoint: str | Path | None) -> bool:
    kind, _, seed = str(checkpoint or "random").partition(":")
    return kind == "random" and (not seed or seed.isdecimal())


def _load(body: Body, path: Path, options: NetworkOptions) -> None:
    """Copy in all but the output layers."""
    state = {
        name.removeprefix(ENCODER): tensor
        for name, tensor in read_weights(path).tensors.items()
        if not name.startswith("decoder.")
    }
    if isinstance(body, StuNetBody):
        state = fit_stem(without_heads(state), body, options.compat)
    if report := KeyReport.compare(body.state_dict(), state):
        raise CheckpointError(
            f"the weights are not those of this network: {report}",
            path=path,
            fix="choose the size they were trained with; strides come from the plan of the data",
            code="keys_differ",
        )
    body.load_state_dict(state)
    _log.info("%s: %d tensors loaded, the output layers are new", path.name, len(state))


def _standardised(x: Float[Tensor, "n c *size"]) -> Float[Tensor, "n c *size"]:
    spatial = tuple(range(2, x.ndim))
    deviation, mean = torch.std_mean(x, dim=spatial, keepdim=True)
    return (x - mean) / deviation.clamp(min=1e-6)


_STU_NET = "STU-Net (2023, arXiv 2304.06716)"
_MONAI = "MONAI (2022, arXiv 2211.02701)"
stu_net_s, stu_net_b, stu_net_l, stu_net_h, stu_net_tiny = (
    SupervisedBuilder(sizes, "residual 3D U-Net in one of four sizes", _STU_NET, PUBLISHED_CLASSES)
    for sizes in STU_NETS.values()
)
unet_2d, unet_3d, dynunet_3d = (
    SupervisedBuilder(sizes, f"MONAI's {sizes.kind} on {sizes.dimensions} axes", _MONAI)
    for sizes in UNETS.values()
)

SUPERVISED = {
    builder.name: builder
    for builder in (
        *(stu_net_s, stu_net_b, stu_net_l, stu_net_h, stu_net_tiny),
        *(unet_2d, unet_3d, dynunet_3d),
    )
}
