"""From features to masks; the names are imported when they are first used."""

from typing import TYPE_CHECKING

import segkit.torchvision_compat  # noqa: F401
from segkit.lazy import attributes

if TYPE_CHECKING:
    from segkit.decoders.base import Decoder as Decoder
    from segkit.decoders.first_mask import FirstMaskDecoder as FirstMaskDecoder
    from segkit.decoders.inr import InrClassDecoder as InrClassDecoder
    from segkit.decoders.inr import InrDecoder as InrDecoder
    from segkit.decoders.inr import MaskField as MaskField
    from segkit.decoders.linear import LinearDecoder as LinearDecoder
    from segkit.decoders.mask import MaskDecoder as MaskDecoder
    from segkit.decoders.multilevel3d import MultilevelClasses as MultilevelClasses
    from segkit.decoders.multilevel3d import MultilevelDecoder as MultilevelDecoder
    from segkit.decoders.query import QueryDecoder as QueryDecoder
    from segkit.decoders.sam2_mask import Sam2MaskDecoder as Sam2MaskDecoder

__getattr__, __dir__ = attributes(
    __name__,
    {
        "base": ("Decoder",),
        "first_mask": ("FirstMaskDecoder",),
        "inr": ("InrClassDecoder", "InrDecoder", "MaskField"),
        "linear": ("LinearDecoder",),
        "mask": ("MaskDecoder",),
        "multilevel3d": ("MultilevelClasses", "MultilevelDecoder"),
        "query": ("QueryDecoder",),
        "sam2_mask": ("Sam2MaskDecoder",),
    },
)
