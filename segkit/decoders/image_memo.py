"""What prompts on one image have in common, kept from the second one on."""

from collections.abc import Callable
from threading import Lock
from weakref import ref

import torch
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor

from segkit.decoders.two_way import Added, ImageSide, image_side
from segkit.typing import Maps, PromptTokens

Stamp = tuple[tuple[int, int], ...]


class ImageMemo:
    """Keeps the `ImageSide` of the image decoded last, for as long as that image lives.

    It is made when an image comes for the second time, so that whoever decodes each image once pays
    nothing. It is made again when a weight it depends on was replaced or written to. Only for
    prediction on a CPU: with gradients, or elsewhere, there is nothing to keep. Who changes a map
    in place in inference mode must not decode it again.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._image: Callable[[], Tensor | None] = lambda: None
        self._stamp: Stamp = ()
        self._side: ImageSide | None = None

    def __call__(
        self, maps: Maps, prompts: PromptTokens, transformer: TwoWayTransformer
    ) -> ImageSide | None:
        """Side of the image `maps`, where it is worth keeping and the dense prompt is simple."""
        if not _is_worth(maps) or added(prompts) is None:
            return None
        layer = transformer.layers[0]
        parts = (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token)
        weights = [weight for part in parts for weight in part.parameters()]
        stamp = tuple(_stamp(one) for one in (maps, prompts.positions, *weights))
        with self._lock:
            if self._image() is not maps or self._stamp != stamp:
                self._image, self._stamp, self._side = ref(maps, self._forget), stamp, None
                return None
            if self._side is None:
                self._side = image_side(transformer, maps, prompts.positions)
            return self._side

    def __deepcopy__(self, memo: object) -> "ImageMemo":
        return ImageMemo()

    def __reduce__(self) -> tuple[type["ImageMemo"], tuple[()]]:
        return ImageMemo, ()

    def _forget(self, gone: object) -> None:
        if self._image is gone:
            self._side = None


def added(prompts: PromptTokens) -> Added | None:
    """What the dense prompt adds to all cells; None where it is not known to be simple."""
    dense = prompts.dense
    if dense.stride()[2:] == (0, 0) and (len(dense) == 1 or dense.stride(0) == 0):
        return Added(dense[0, :, 0, 0])
    if (sketch := prompts.sketch) is None:
        return None
    values = sketch.values.flatten(2).transpose(1, 2)
    return Added(sketch.bias, (values, sketch.weight.T))


def _is_worth(maps: Maps) -> bool:
    """Whether this is prediction on a CPU, of one image."""
    is_recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    is_plain = not (is_recorded or maps.is_cuda or torch.is_autocast_enabled("cpu"))
    return is_plain and len(maps) == 1


def _stamp(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version
