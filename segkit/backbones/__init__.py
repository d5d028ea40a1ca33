"""Backbones: frozen encoders, one loop over their blocks each, and strict weight files.

The names are imported when they are first used: upstream's packages are slow to import.
"""

from typing import TYPE_CHECKING

import segkit.torchvision_compat  # noqa: F401
from segkit.lazy import attributes

if TYPE_CHECKING:
    from segkit.backbones.base import Backbone as Backbone
    from segkit.backbones.sam import SamBackbone as SamBackbone
    from segkit.backbones.sam import sam_spec as sam_spec
    from segkit.backbones.sam2 import Sam2Backbone as Sam2Backbone
    from segkit.backbones.sam2_modules import SAM2_SIZES as SAM2_SIZES
    from segkit.backbones.sam2_modules import Sam2Modules as Sam2Modules
    from segkit.backbones.sam2_modules import Sam2Sizes as Sam2Sizes
    from segkit.backbones.sam3d import Sam3dBackbone as Sam3dBackbone
    from segkit.backbones.sam_modules import SIZES as SIZES
    from segkit.backbones.sam_modules import SamModules as SamModules
    from segkit.backbones.sam_modules import SamSizes as SamSizes

__getattr__, __dir__ = attributes(
    __name__,
    {
        "base": ("Backbone",),
        "sam": ("SamBackbone", "sam_spec"),
        "sam2": ("Sam2Backbone",),
        "sam2_modules": ("SAM2_SIZES", "Sam2Modules", "Sam2Sizes"),
        "sam3d": ("Sam3dBackbone",),
        "sam_modules": ("SIZES", "SamModules", "SamSizes"),
    },
)
