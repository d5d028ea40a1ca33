"""From features to masks."""

import segkit.torchvision_compat  # noqa: F401
from segkit.decoders.base import Decoder as Decoder
from segkit.decoders.first_mask import FirstMaskDecoder as FirstMaskDecoder
from segkit.decoders.mask import MaskDecoder as MaskDecoder
from segkit.decoders.query import QueryDecoder as QueryDecoder
from segkit.decoders.sam2_mask import Sam2MaskDecoder as Sam2MaskDecoder
