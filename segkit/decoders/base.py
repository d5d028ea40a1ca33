"""What every decoder is."""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from segkit.typing import Features, Maps, MaskPrediction, PromptTokens


class Decoder(nn.Module):
    """Turn features and prompt tokens into masks.

    A decoder is built from the upstream decoder module alone, so every other option has a default;
    an automatic decoder takes the number of `classes` as an option. Parameters it sets to
    `requires_grad=False` in its constructor stay frozen and are not stored in adapter files.
    """

    is_automatic: ClassVar[bool] = False
    """Whether it segments classes without prompts; it is then given tokens without points."""

    resolution_free: ClassVar[bool] = False
    """Whether `forward` also takes `size` and `area` and gives logits of any resolution."""

    def begin_epoch(self, epoch: int) -> None:
        """Learn which epoch of training, counted from 0, begins; most decoders do not care."""

    def settle(self, features: Features) -> Features:
        """Do once per image what no prompt changes; `forward` takes either form of features."""
        return features

    @abstractmethod
    def forward(
        self,
        features: Features,
        prompts: PromptTokens,
        image_index: Int[Tensor, " objects"] | None = None,
        *,
        multimask: bool = False,
    ) -> MaskPrediction:
        """Decode objects; `image_index` names the image of each.

        Without `image_index` object b lies on image b; a single image serves all objects.
        `multimask` asks an interactive decoder for alternatives.
        """


def select(
    maps: Maps, objects: int, image_index: Int[Tensor, " objects"] | None
) -> Float[Tensor, "objects c h w"]:
    """Repeat or choose the map of each object; a view where nothing needs to be copied."""
    if image_index is not None:
        return maps[image_index]
    if len(maps) not in (1, objects):
        raise ValueError(
            f"{objects} objects lie on {len(maps)} images; name the image of each in image_index"
        )
    return maps.expand(objects, -1, -1, -1)


def with_dense(
    maps: Maps, dense: Float[Tensor, "objects c h w"], image_index: Int[Tensor, " objects"] | None
) -> Float[Tensor, "images c h w"]:
    """Add the dense prompt of each object to its image.

    A single image whose objects have one dense prompt in common stays a single image.
    """
    if image_index is None and len(maps) == 1 and dense.stride(0) == 0:
        dense = dense[:1]
    maps = select(maps, len(dense), image_index)
    is_recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    if is_recorded or torch.is_autocast_enabled(maps.device.type):
        return maps + dense
    # channel-last, as decoders read it
    if maps.device.type != "cpu":
        out = torch.empty_like(maps, memory_format=torch.channels_last)
        return torch.add(maps, dense, out=out)
    count, channels, rows, cols = maps.shape
    cells = maps.new_empty(count, rows * cols, channels)
    for summed, place in zip(maps + dense, cells, strict=True):
        place.copy_(summed.flatten(1).T)  # of matrices alone torch is fast at turning axes
    return cells.transpose(1, 2).unflatten(2, (rows, cols))
