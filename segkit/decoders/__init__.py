"""From features to masks."""

import segkit.torchvision_compat  # noqa: F401
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
