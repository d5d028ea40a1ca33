"""Backbones: frozen encoders, one loop over their blocks each, and strict weight files."""

import segkit.torchvision_compat  # noqa: F401
from segkit.backbones.base import Backbone
from segkit.backbones.sam import SamBackbone, sam_spec
from segkit.backbones.sam2 import Sam2Backbone as Sam2Backbone
from segkit.backbones.sam2_modules import SAM2_SIZES as SAM2_SIZES
from segkit.backbones.sam2_modules import Sam2Modules as Sam2Modules
from segkit.backbones.sam2_modules import Sam2Sizes as Sam2Sizes
from segkit.backbones.sam3d import Sam3dBackbone as Sam3dBackbone
from segkit.backbones.sam_modules import SIZES, SamModules, SamSizes

__all__ = ["SIZES", "Backbone", "SamBackbone", "SamModules", "SamSizes", "sam_spec"]
