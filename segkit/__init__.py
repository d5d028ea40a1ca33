"""segkit: adapt frozen SAM and SAM 2 to medical images, volumes and videos.

The public names below are imported when they are first used, so that `import segkit` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from segkit.version import VERSION

if TYPE_CHECKING:
    from segkit.adapters.base import Adapter as Adapter
    from segkit.backbones.base import Backbone as Backbone
    from segkit.data.readers import load as load
    from segkit.data.writers import save as save
    from segkit.decoders.base import Decoder as Decoder
    from segkit.evaluation.runner import evaluate as evaluate
    from segkit.geometry import Geometry as Geometry
    from segkit.metrics.measurements import measure as measure
    from segkit.models import build as build
    from segkit.models.segmenter import Segmenter as Segmenter
    from segkit.models.tracker import Tracker as Tracker
    from segkit.planning.planner import plan as plan
    from segkit.predictors.image import ImagePredictor as ImagePredictor
    from segkit.predictors.video import VideoPredictor as VideoPredictor
    from segkit.predictors.volume import VolumePredictor as VolumePredictor
    from segkit.typing import BackboneSpec as BackboneSpec
    from segkit.typing import Prompts as Prompts

__version__ = VERSION

_HOMES = {
    "Adapter": "segkit.adapters.base",
    "Backbone": "segkit.backbones.base",
    "BackboneSpec": "segkit.typing",
    "Decoder": "segkit.decoders.base",
    "Geometry": "segkit.geometry",
    "ImagePredictor": "segkit.predictors.image",
    "Prompts": "segkit.typing",
    "Segmenter": "segkit.models.segmenter",
    "Tracker": "segkit.models.tracker",
    "VideoPredictor": "segkit.predictors.video",
    "VolumePredictor": "segkit.predictors.volume",
    "build": "segkit.models",
    "evaluate": "segkit.evaluation.runner",
    "load": "segkit.data.readers",
    "measure": "segkit.metrics.measurements",
    "plan": "segkit.planning.planner",
    "save": "segkit.data.writers",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'segkit' has no attribute {name!r}; it has {sorted(_HOMES)}")
    home = import_module(_HOMES[name])
    # a submodule is an attribute of its package only once it is imported
    value = getattr(home, name, None) or import_module(f"{home.__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
